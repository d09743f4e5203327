"""A web server that a stranger may have: images, and everything that can go wrong with them."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE_BYTES = 200_000
CHUNK = b"x" * 8192


class ImageServer:
    """Serves on one address, in threads, until it is closed.

    The path says what happens: /image answers with `image`; /404, /html, /large, /growing,
    /redirect?URL (to URL), /loop, /silence (no answer), /drip (a body that never ends), /noise
    (no HTTP).
    """

    def __init__(self, host: str, image: bytes) -> None:
        self.image = image
        self.ended = threading.Event()
        server = self

        class Handler(_Handler):
            owner = server

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.host, self.port = str(self._server.server_address[0]), self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return f"http://{self.host}:{self.port}/{path}"

    def close(self) -> None:
        """Stop, and let go of whoever still waits."""
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: ImageServer

    def do_GET(self) -> None:
        path, _, query = self.path.lstrip("/").partition("?")
        try:
            getattr(self, f"answer_{path}")(query)
        except OSError:  # the gateway hung up, which is what most of these paths are for
            self.close_connection = True

    def answer_image(self, _: str) -> None:
        self._answer(200, self.owner.image, "image/png")

    def answer_404(self, _: str) -> None:
        self._answer(404, b"nothing here", "text/plain")

    def answer_html(self, _: str) -> None:
        self._answer(200, b"<!doctype html><title>a page</title>", "image/png")

    def answer_large(self, _: str) -> None:
        self._answer(200, CHUNK * (LARGE_BYTES // len(CHUNK) + 1), "image/png")

    def answer_growing(self, _: str) -> None:
        self._head(200, "image/png")
        for _ in range(LARGE_BYTES // len(CHUNK) + 1):
            self.wfile.write(CHUNK)

    def answer_redirect(self, where: str) -> None:
        self._head(302, "text/plain", location=where)

    def answer_loop(self, _: str) -> None:
        self._head(302, "text/plain", location="/loop")

    def answer_silence(self, _: str) -> None:
        self.owner.ended.wait()

    def answer_drip(self, _: str) -> None:
        self._head(200, "image/png")
        while not self.owner.ended.wait(0.05):
            self.wfile.write(b"x")

    def answer_noise(self, _: str) -> None:
        self.wfile.write(b"SSH-2.0-nothing_of_the_kind\r\n")
        self.close_connection = True

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _head(self, status: int, kind: str, location: str = "") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        if location:
            self.send_header("location", location)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
