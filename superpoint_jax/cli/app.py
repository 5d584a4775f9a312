"""`superpoint-jax app`."""

from __future__ import annotations

import sys

from superpoint_jax import openvino
from superpoint_jax.cli.arguments import Extraction, Matcher, Weights
from superpoint_jax.cli.errors import CommandError, told


def app(
    *,
    weights: Weights = None,
    resize: int | None = None,
    enlarge: float | None = None,
    engine: openvino.Engine = "auto",
    matcher: Matcher = "nearest",
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = True,
) -> int:
    """Open a page in the browser that shows the keypoints of one photo or the matches of two; works offline.

    Args:
        weights: Folder, file or Hugging Face id; by default the weights in the package.
        resize: Reduce photos to this longer side, in pixels; 0 never reduces. By default the size that belongs to the
            weights. The number of keypoints and the smallest score are chosen on the page.
        enlarge: Enlarge photos by this factor before the network, for more exact positions; 2 takes four times as long.
        engine: What computes the network; by default OpenVINO where it is installed and there is no accelerator.
        matcher: What matches at first; the page has a choice. "nearest" for mutual nearest neighbours of descriptors,
            "lightglue" for the network in the package, or a folder, file or Hugging Face id of a LightGlue.
        host: Address to listen on. Any other than that of this machine lets others in: 0.0.0.0 all that reach it.
        port: Port to listen on.
        browser: Open the page in the browser.
    """
    with told():
        from superpoint_jax.app.guard import LOOPBACK
        from superpoint_jax.app.page import require_gradio, serve

        require_gradio()
        if host not in LOOPBACK:
            print(
                f"superpoint-jax: warning: --host {host} lets everyone who reaches this machine use the page; there is "
                f"no password",
                file=sys.stderr,
            )
        from superpoint_jax.app.answers import Page

        loaded = Extraction(weights=weights, resize=resize, enlarge=enlarge, engine=engine).load()
        page = Page(loaded.network, processor=loaded.processor, resize=loaded.resize, matcher=matcher)
        print(f"the page is at http://{host}:{port}/ until Ctrl+C", flush=True)
        try:
            serve(page, host=host, port=port, browser=browser)
        except OSError as error:
            raise CommandError(
                f"can't serve the page at {host}:{port}; the port may be in use, choose another --port"
            ) from error
    return 0
