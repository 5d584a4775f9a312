"""The layout of the page, in Gradio. `answers` computes what is shown."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superpoint_jax.app.answers import MOST_KEYPOINTS, Page
from superpoint_jax.app.guard import LOOPBACK, MOST_BYTES, Guard

if TYPE_CHECKING:
    from gradio import Blocks

TITLE = "SuperPoint in JAX"

UPLOADS_KEPT_S = 3600
"""Uploaded photos are deleted after this many seconds, and when the page ends."""


def serve(page: Page, *, host: str, port: int, browser: bool) -> None:
    """Serve the page until Ctrl+C, then delete its files.

    Raises:
        OSError: The port is in use.
    """
    from starlette.middleware import Middleware

    guard = Middleware(Guard, local=host in LOOPBACK)
    try:
        build(page).launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            max_file_size=MOST_BYTES // 2,
            app_kwargs={"middleware": [guard]},
            **appearance(),
        )
    finally:
        page.close()


def require_gradio() -> None:
    """Check that everything the page needs is installed, and switch off Gradio's telemetry.

    Raises:
        ImportError: A package is not installed.
    """
    for module in ("gradio", "cv2", "h5py"):
        if find_spec(module) is None:
            raise ImportError(f"the page needs {module}: pip install 'superpoint-jax[app]'")
    # Set before gradio is imported, which would otherwise contact a server.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def appearance() -> dict[str, Any]:
    """Options of `launch` with the system's fonts, because those of the default theme come from the network."""
    from gradio.themes import Default

    fonts = ["system-ui", "sans-serif"]
    return dict(theme=Default(font=fonts, font_mono=["monospace"]), footer_links=[])


def build(page: Page) -> Blocks:
    """The page, not yet served."""
    import gradio as gr

    def show(photos: list[str] | None, threshold: float, max_keypoints: float, matcher: str) -> tuple[Any, str, Any]:
        if not photos:
            return None, "", None
        try:
            shown = page.show(photos, threshold=float(threshold), max_keypoints=int(max_keypoints), matcher=matcher)
        except (OSError, ValueError, MemoryError) as error:
            # Messages name an uploaded file without its temporary folder.
            message = str(error) or "not enough memory for this photo"
            for photo in photos:
                message = message.replace(str(photo), Path(photo).name)
            raise gr.Error(message, duration=None, print_exception=False) from error
        return str(shown.picture), shown.text, [str(path) for path in shown.downloads]

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, UPLOADS_KEPT_S)) as blocks:
        gr.Markdown(f"# {TITLE}\nOne photo shows its keypoints, two their matches. Nothing leaves this machine.")
        with gr.Row():
            with gr.Column(scale=1):
                photos = gr.File(label="One or two photos", file_count="multiple", elem_id="photos")
                example = gr.Button("Try an example", elem_id="example")
                count = gr.Slider(
                    16, MOST_KEYPOINTS, value=1024, step=16, label="Keypoints, at most", elem_id="max_keypoints"
                )
                threshold = gr.Slider(
                    0, 0.2, value=page.threshold, step=0.001, label="Smallest score", elem_id="threshold"
                )
                names = {"nearest": "nearest neighbours", "lightglue": "LightGlue"}
                matcher = gr.Radio(
                    [(names.get(name, name), name) for name in page.matchers],
                    value=page.matcher,
                    label="Matched by",
                    elem_id="matcher",
                )
            with gr.Column(scale=3):
                picture = gr.Image(
                    label="Keypoints or matches",
                    interactive=False,
                    type="filepath",
                    buttons=["download", "fullscreen"],
                    elem_id="picture",
                )
                text = gr.Markdown(elem_id="text")
                files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="downloads")
        inputs, outputs = [photos, threshold, count, matcher], [picture, text, files]
        example.click(lambda: [str(path) for path in page.example()], outputs=photos)
        photos.change(show, inputs, outputs)
        matcher.change(show, inputs, outputs)
        for slider in (count, threshold):
            slider.release(show, inputs, outputs)
    # One answer at a time, because the model keeps all cores busy with one photo.
    return blocks.queue(default_concurrency_limit=1, max_size=16)
