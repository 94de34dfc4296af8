"""Whether a process still does its work, for the probes of Kubernetes."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

SILENT_S = 30.0
"""A loop that has not come round for so long hangs."""


class Health:
    """Answers GET /health with 200 while `beat` is called, and with 503 when it no longer is.

    Parameters
    ----------
    port: to listen on at all addresses; 0: one that the kernel chooses; None: no answers.
    """

    def __init__(self, port: int | None) -> None:
        self._beat_s = time.monotonic()
        self._server = None if port is None else ThreadingHTTPServer(("", port), self._answer)

    def __enter__(self) -> Self:
        if self._server:
            self._server.daemon_threads = True
            Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int | None:
        return self._server.server_port if self._server else None

    def beat(self) -> None:
        """Say that the loop has come round."""
        self._beat_s = time.monotonic()

    def _answer(self, *arguments: Any) -> "_Handler":
        return _Handler(self, *arguments)

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._beat_s


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0

    def __init__(self, health: Health, *arguments: Any) -> None:
        self._health = health
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.path != "/health":
            self._reply(404, "there is only /health")
        elif self._health.silent_s > SILENT_S:
            self._reply(503, f"the loop has not come round for {self._health.silent_s:.0f} s")
        else:
            self._reply(200, "ok")

    def log_message(self, format: str, *_: Any) -> None:
        """Say nothing: probes come all the time."""

    def _reply(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
