"""`superpoint-jax app`."""

from __future__ import annotations

from superpoint_jax import openvino
from superpoint_jax.cli.arguments import Extraction, Weights
from superpoint_jax.cli.errors import CommandError, told


def app(
    *,
    weights: Weights = None,
    resize: int | None = None,
    enlarge: float | None = None,
    engine: openvino.Engine = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = True,
) -> int:
    """A page in the browser: drop one photo for its keypoints or two for their matches; needs no network.

    Args:
        weights: Folder, file or Hugging Face id; those in the package by default.
        resize: Reduce photos with a longer side to it, in pixels; 0 never does. By default what belongs to the weights
            says. The page itself asks for the number of keypoints and their smallest score.
        enlarge: Enlarge photos by this factor before the network, for more exact positions; 2 takes four times as long.
        engine: What computes the network; by default OpenVINO where it is installed and there is no accelerator.
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: Port to listen at.
        browser: Open the page in the browser.
    """
    with told():
        from superpoint_jax.app.page import require_gradio, serve

        require_gradio()
        from superpoint_jax.app.answers import Page

        loaded = Extraction(weights=weights, resize=resize, enlarge=enlarge, engine=engine).load()
        page = Page(loaded.network, processor=loaded.processor, resize=loaded.resize)
        print(f"the page is at http://{host}:{port}/ until Ctrl+C", flush=True)
        try:
            serve(page, host=host, port=port, browser=browser)
        except OSError as error:
            raise CommandError(f"no page at {host}:{port}, which may be in use; choose another --port") from error
    return 0
