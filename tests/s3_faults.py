"""A real HTTP server between a run and its object store, which answers some requests as a store in trouble does."""

import contextlib
import http.client
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

FAULTS = ("500", "503", "time-out", "lost response", "aborted upload")

_ERRORS = {
    "500": (b"InternalError", b"We encountered an internal error."),
    "503": (b"SlowDown", b"Please reduce your request rate."),
}
_XML = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId></Error>'

_HANG = 6.0
"""Seconds without an answer before the connection is closed; clients give up after 3."""


class FaultyProxy:
    """Forwards requests to a server on this machine; some of them fail, each in one of `FAULTS`.

    Args:
        target: port of the server.
        seed: of what happens to which request.
        share: of the requests that fail.
        kinds: of `FAULTS`, those that happen.

    Attributes:
        port: of the proxy.
        happened: how often each fault did.
        requests: method and path of each that was forwarded.
    """

    def __init__(self, target: int, *, seed: float, share: float, kinds=FAULTS) -> None:
        self._chance = Random(seed)
        self._share = share
        self._kinds = kinds
        self._target = target
        self._lock = threading.Lock()
        self.happened: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method):
        """What happens to the next request; None: nothing."""
        with self._lock:
            if self._chance.random() >= self._share:
                return None
            kind = self._chance.choice(self._kinds)
            if kind == "aborted upload" and method != "PUT":
                kind = "500"
            self.happened[kind] += 1
            return kind

    def forward(self, method, path, headers, body):
        """The server's status, headers and body."""
        self.requests.append((method, path))
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        with contextlib.closing(connection):
            chunked = "transfer-encoding" in headers
            connection.request(
                method, path, body=[body] if chunked else body, headers=headers, encode_chunked=chunked
            )
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy = None

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a killed client is no trouble of the server
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Prints nothing."""

    def _handle(self):
        kind = self.server.proxy.fault(self.command)
        body = self.rfile.read1(1000) if kind == "aborted upload" else self._body()
        if kind in {"aborted upload", "time-out"}:
            time.sleep(_HANG if kind == "time-out" else 0)
            self._hang_up()
        elif kind in _ERRORS:
            self._answer(int(kind), [("Content-Type", "application/xml")], _XML % _ERRORS[kind])
        else:
            headers = {
                name.lower(): value for name, value in self.headers.items() if name.lower() != "expect"
            }
            answer = self.server.proxy.forward(self.command, self.path, headers, body)
            if kind == "lost response":
                self._hang_up()
            else:
                self._answer(*answer)

    def _body(self):
        """The whole body, which the S3 client sends in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _answer(self, status, headers, body):
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value  # of what GET would send
            elif name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


for _method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(_Handler, f"do_{_method}", _Handler._handle)
