"""What the page refuses: names that point to this machine, other sites, large uploads and large pictures."""

import asyncio

import numpy as np
import pytest
from PIL import Image

from superpoint_jax.app import answers
from superpoint_jax.app.guard import MOST_BYTES, Guard
from superpoint_jax.processing import ImageError

pytest.importorskip("gradio")


def status(guard: Guard, kind: str = "http", **headers: str) -> int:
    """The status of the answer to a request with these headers."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": "GET", "path": "/", "headers": names}
    asyncio.run(guard(scope, receive, send))
    return sent[0].get("status", 403)  # A refused websocket is closed, which servers answer with 403.


async def fine(scope, receive, send):
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_this_machine_and_this_page_are_answered(kind):
    local, open_to_all = Guard(fine, local=True), Guard(fine, local=False)
    for host in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "localhost"):
        assert status(local, kind, host=host) == 200
        assert status(local, kind, host=host, origin=f"http://{host}") == 200
        assert status(local, kind, host=host, origin="http://evil.example") == 403
        assert status(local, kind, host=host, origin="null") == 403
    assert status(local, kind, host="evil.example:7860") == 403
    assert status(local, kind, host="127.0.0.1.evil.example") == 403
    assert status(local, kind) == 403
    assert status(open_to_all, kind, host="photos.example") == 200
    assert status(open_to_all, kind, host="photos.example", origin="http://evil.example") == 403


def test_large_uploads_are_refused_before_they_are_read():
    local = Guard(fine, local=True)
    assert status(local, host="localhost", content_length=str(MOST_BYTES)) == 200
    assert status(local, host="localhost", content_length=str(MOST_BYTES + 1)) == 413
    assert status(local, host="localhost", content_length="-1") == 413


def test_large_pictures_are_refused_and_old_answers_are_deleted(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MOST_PIXELS", 64 * 96)
    monkeypatch.setattr(answers, "ANSWERS_KEPT", 2)
    Image.fromarray(photos["camera"][:64, :96]).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((65, 96), np.uint8)).save(tmp_path / "large.png")
    page = answers.Page(model)
    try:
        shown = [page.show([tmp_path / "a.png"], threshold=0.1, max_keypoints=9) for _ in range(4)]
        assert [one.picture.exists() for one in shown] == [False, False, True, True]
        with pytest.raises(ImageError, match=r"large\.png: 96x65 is .* above the limit"):
            page.show([tmp_path / "large.png"], threshold=0.1, max_keypoints=9)
    finally:
        page.close()
    assert not shown[-1].picture.exists()
