"""A server on loopback that speaks the hub's paths, for the real `huggingface_hub` client."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server holds and what it was asked.

    Attributes:
        repositories: id: {file name: contents}. Every one has the branch "main" and the commit `COMMIT`.
        requests: "METHOD path" of every request so far.
        tokens: The authorization that each request came with.
        gated: ids that ask for an agreement.
        commits: Messages of what was pushed.
        pause_s: Seconds before each byte of a file.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]):
        self.repositories = {name: dict(files) for name, files in repositories.items()}
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.gated: set[str] = set()
        self.commits: list[str] = []
        self.pause_s = 0.0
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of /owner/name/resolve/revision/file."""
        owner, name, verb, revision, filename = unquote(path).strip("/").split("/", 4)
        repository = self.repositories.get(f"{owner}/{name}")
        if repository is None or verb != "resolve":
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if f"{owner}/{name}" in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if filename not in repository:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        body = repository[filename]
        etag = hashlib.sha256(body).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}, body

    def take(self, path: str, body: bytes) -> dict:
        """What the hub says of what is posted to it: a new repository, files to come, or a commit of them."""
        parts = unquote(path).strip("/").split("/")
        if parts[-2:] == ["repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            self.repositories.setdefault(name, {})
            return {"url": f"{self.url}/{name}", "name": name}
        owner, name, verb = parts[2:5]
        if verb == "preupload":
            files = json.loads(body)["files"]
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        assert verb == "commit", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.commits.append(line["value"]["summary"])
            else:
                contents = base64.b64decode(line["value"]["content"])
                self.repositories[f"{owner}/{name}"][line["value"]["path"]] = contents
        return {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/{owner}/{name}/commit/{COMMIT}"}


@contextmanager
def serve(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """A running hub; `hub.url` is its HF_ENDPOINT."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.tokens.append(self.headers.get("Authorization"))
            try:
                status, headers, body = hub.answer(self.path.split("?")[0])
            except ValueError:  # Not a path of files.
                status, headers, body = 404, {}, b""
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                with suppress(BrokenPipeError, ConnectionResetError):  # A client that waits no longer.
                    self.send(body)

        def send(self, body: bytes) -> None:
            for piece in (body[i : i + 1] for i in range(len(body))) if hub.pause_s else (body,):
                time.sleep(hub.pause_s)
                self.wfile.write(piece)

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            hub.tokens.append(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps(hub.take(self.path.split("?")[0], body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_HEAD = respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
