"""A model hub for tests: what `huggingface_hub` asks of one, over folders of this machine.

    python tests/support/hub_mirror.py FOLDER --port 8000 --token secret

The model `epd/NAME` is the folder NAME in FOLDER. Whoever has not the token sees nothing. `/asked`
tells how often each file was sent as a whole. Standard library only: it also runs in pods.
"""

import argparse
import hashlib
import json
import re
import threading
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ORGANISATION = "epd"
BRANCH = "main"
_MODEL = rf"/api/models/{ORGANISATION}/(?P<model>[^/]+)"
_INFO = re.compile(rf"{_MODEL}(/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(rf"{_MODEL}/tree/(?P<revision>[^/]+)")
_FILE = re.compile(rf"/{ORGANISATION}/(?P<model>[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def commit_of(folder: Path) -> str:
    """Return the one commit of a model: another content is another commit."""
    listing = [(path.name, _etag(path)) for path in _files(folder)]
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server; `sent` counts how often each file was sent as a whole, as `MODEL/FILE`."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], models: Path, token: str) -> None:
        super().__init__(address, _Requests)
        self.models = models
        self.token = token
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/asked":
            self._say(HTTPStatus.OK, dict(self.server.sent))
            return
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._refuse(HTTPStatus.UNAUTHORIZED, "GatedRepo")
            return
        for pattern, answer in ((_INFO, self._info), (_TREE, self._tree), (_FILE, self._file)):
            if asked := pattern.fullmatch(path):
                folder = self.server.models / asked["model"]
                if not folder.is_dir():
                    self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound")
                elif asked["revision"] not in (None, BRANCH, commit_of(folder)):
                    self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
                else:
                    answer(folder, **asked.groupdict())
                return
        self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")

    def _info(self, folder: Path, **_: str | None) -> None:
        name = f"{ORGANISATION}/{folder.name}"
        siblings = [{"rfilename": path.name} for path in _files(folder)]
        about = {"_id": name, "id": name, "modelId": name, "sha": commit_of(folder)}
        self._say(HTTPStatus.OK, {**about, "private": True, "tags": [], "siblings": siblings})

    def _tree(self, folder: Path, **_: str | None) -> None:
        files = [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _etag(path)}
            for path in _files(folder)
        ]
        self._say(HTTPStatus.OK, files)

    def _file(self, folder: Path, path: str = "", **_: str | None) -> None:
        file = folder / path
        if file not in _files(folder):
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
            return
        data = file.read_bytes()
        headers = {
            "ETag": f'"{_etag(file)}"',
            "X-Repo-Commit": commit_of(folder),
            "Accept-Ranges": "bytes",
        }
        status = HTTPStatus.OK
        if asked := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], HTTPStatus.PARTIAL_CONTENT
        if self.command == "GET" and status == HTTPStatus.OK:
            with self.server.lock:
                self.server.sent[f"{folder.name}/{path}"] += 1
        self._send(status, data, headers)

    def _say(self, status: HTTPStatus, body: object) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: HTTPStatus, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: HTTPStatus, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log to standard output, and so to `kubectl logs`."""
        print(format % args, flush=True)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    options = parser.parse_args()
    everywhere = "0.0.0.0"
    with Hub((everywhere, options.port), options.folder, options.token) as hub:
        hub.serve_forever()


if __name__ == "__main__":
    main()
