"""Which requests the page answers: those of its own address, up to a size."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other machine reaches."""

MOST_BYTES = 200 * 10**6
"""Largest body of a request: two photos."""


class Guard:
    """An ASGI application that refuses what a page of another site, or a name that points to this machine, sends.

    Args:
        app: The application behind it.
        local: Whether only the names in `LOOPBACK` are answered.
    """

    def __init__(self, app: Any, *, local: bool) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, with 403 or 413 if it is refused."""
        from starlette.responses import PlainTextResponse

        refused = None
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            refused = self._refused(headers)
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(refused[1] + "\n", refused[0])(scope, receive, send)

    def _refused(self, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the reason if a request is refused."""
        host, origin, length = headers.get("host", ""), headers.get("origin"), headers.get("content-length", "0")
        if self._local and urlsplit(f"//{host}").hostname not in LOOPBACK:
            return 403, "the page is only for this machine; start it with --host to let others in"
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "the request comes from a page of another site"
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return 413, f"at most {MOST_BYTES // 10**6} MB are taken"
        return None
