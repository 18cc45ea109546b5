"""A Dataverse server on loopback with the files of a folder, which can be told to misbehave and counts what it sends."""

import contextlib
import fcntl
import hashlib
import http.server
import json
import socket
import struct
import sys
import termios
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import unquote

DOI = "doi:10.5072/FK2/SAMPLE"
BLOCK = 64 << 10


class DataverseServer:
    """Serves `/api/datasets/:persistentId/` and `/api/access/datafile/ID`, where ID may be a file's name.

    Attributes:
        faults: what is done to a file, by name: a list that is used up, or a single fault for ever.
        sent: bytes of each file that were handed to the socket.
        arrived: bytes of each file, with the heads of answers, that the client's system has acknowledged; some may wait in its buffers.
        asked: requests of each file.
        headers: of every request.
        pace: seconds between two blocks of 64 kB.
    """

    def __init__(self, folder, *, names=None, sizes=None):
        self.folder = Path(folder)
        self.files = dict(
            enumerate(names or sorted(p.name for p in self.folder.iterdir() if p.is_file()), 100)
        )
        self.sizes = sizes or {}
        self.faults = defaultdict(list)
        self.reply_faults = []
        self.sent, self.asked, self.starts = Counter(), Counter(), defaultdict(list)
        self.arrived = Counter()
        self.headers = []
        self.pace = 0.0
        self._reply = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    server.answer(self)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request, client_address):
                if not isinstance(sys.exception(), ConnectionError):  # a client that was interrupted
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.page = f"{self.url}/dataset.xhtml?persistentId={DOI}"

    def __enter__(self):
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def data(self, name):
        return (self.folder / name).read_bytes()

    def reply(self):
        """The reply about the data set, in the shape of a real one."""
        if self._reply is None:
            self._reply = json.dumps({"status": "OK", "data": {"id": 1, "latestVersion": {
                "datasetPersistentId": DOI, "files": [self._entry(number, name) for number, name in self.files.items()]}}}).encode()  # fmt: skip
        return self._reply

    def _entry(self, number, name):
        data = self.data(name)
        md5 = hashlib.md5(data).hexdigest()
        file = {"id": number, "filename": name, "contentType": "image/tiff", "filesize": len(data), "md5": md5,
                "checksum": {"type": "MD5", "value": md5}, "tabularData": False}  # fmt: skip
        return {"label": name, "restricted": False, "version": 1, "dataFile": file}

    def answer(self, request):
        self.headers.append(dict(request.headers))
        if request.path.startswith("/api/datasets/:persistentId/"):
            reply = self.reply()
            if self.reply_faults:
                reply = self.reply_faults.pop(0)(reply)
            return self.send(request, reply)
        if request.path.startswith("/api/access/datafile/"):
            asked = unquote(request.path.rpartition("/")[2])
            name = self.files.get(int(asked)) if asked.isdecimal() else asked
            if name not in self.files.values():
                return self.status(request, 404)
            self.asked[name] += 1
            fault = self.faults[name]
            if isinstance(fault, list):
                fault = fault.pop(0) if fault else None
            return fault(self, request, name) if fault else self.send_file(request, name)
        return self.status(request, 404)

    def status(self, request, code, **headers):
        request.send_response(code)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request, data):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def send_file(self, request, name, *, most=None, data=None, ranges=True):
        """Sends a file from where it is asked for.

        Args:
            most: bytes after which the connection is closed.
            data: other bytes.
            ranges: whether Range is honoured.
        """
        data = self.data(name) if data is None else data
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
        self.starts[name].append(start)
        with self.counting(request.connection, name):
            self._send_from(request, name, data, start, most)

    @contextlib.contextmanager
    def counting(self, connection, name):
        """Counts what arrives of what is sent, until all has or the client is gone."""
        before = acknowledged(connection)
        try:
            yield
            while waiting(connection):
                time.sleep(0.001)
        finally:
            self.arrived[name] += acknowledged(connection) - before

    def _send_from(self, request, name, data, start, most):
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        end = len(data) if most is None else min(len(data), start + most)
        for at in range(start, end, BLOCK):
            block = data[at : min(at + BLOCK, end)]
            request.wfile.write(block)
            self.sent[name] += len(block)
            if self.pace:
                time.sleep(self.pace)
        request.close_connection = request.close_connection or end < len(data)


def acknowledged(connection):
    """Bytes that Linux says the other side has acknowledged: `tcpi_bytes_acked`."""
    return struct.unpack_from("Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 120)[0]


def waiting(connection):
    """Whether bytes are not acknowledged yet, and the client is there."""
    (left,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    try:
        return left > 0 and connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True


def status(code, **headers):
    return lambda server, request, _name: server.status(request, code, **headers)


def redirect(target):
    """A redirect with a body that never ends."""

    def answer(server, request, name):
        endless(server, request, name, code=303, Location=target)

    return answer


def cut(most):
    return lambda server, request, name: server.send_file(request, name, most=most)


def without_ranges(server, request, name):
    server.send_file(request, name, ranges=False)


def other_bytes(server, request, name):
    data = bytearray(server.data(name))
    data[len(data) // 2] ^= 1
    server.send_file(request, name, data=bytes(data))


def shorter(server, request, name):
    server.send_file(request, name, data=server.data(name)[:-7])


def longer(server, request, name):
    server.send_file(request, name, data=server.data(name) + b"more")


def endless(server, request, name, code=200, **headers):
    """Chunks without end: no length is announced."""
    request.send_response(code)
    for key, value in headers.items():
        request.send_header(key, value)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.close_connection = True
    block = bytes(1 << 16)
    while True:
        request.wfile.write(b"10000\r\n" + block + b"\r\n")
        server.sent[name] += len(block)


def drip(server, request, name):
    data = server.data(name)
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    for at in range(0, len(data), len(data) // 20 + 1):
        request.wfile.write(data[at : at + len(data) // 20 + 1])
        request.wfile.flush()
        time.sleep(0.02)


def silent(server, request, name):
    """Accepts, and says nothing."""
    time.sleep(3)
    request.close_connection = True
