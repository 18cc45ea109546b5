"""Servers that cannot be reached: what no attempt will change ends at once, everything else says that it is tried again."""

import datetime as dt
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rawnind.errors import DownloadError
from rawnind.exit_codes import ExitCode, exit_code
from rawnind.fetch.run import fetch
from rawnind.fetch.selection import Wanted
from rawnind.fetch.sources import files_of
from rawnind.fetch.tally import Counts
from rawnind.planning import SceneFilter
from rawnind.progress import fetch_view
from rawnind.progress.fetch_view import watching_fetch
from rawnind.source import http_client
from rawnind.source.catalog import load_catalog
from rawnind.source.http_client import HttpClient, Patience
from tests.fetch import dataverse_server as faults
from tests.fetch.dataverse_server import DataverseServer
from tests.polling import free_port, poll

QUICK = Patience(attempts=4, delay=0.02, longest=0.1, connect=5, read=5)


def ask(server, patience=None):
    """The error of asking a server about a data set, the lines for people, and the seconds that it took."""
    told, began = [], time.monotonic()
    with pytest.raises(DownloadError) as found:
        load_catalog(
            f"{server}/dataset.xhtml?persistentId=doi:10.5072/FK2/X", HttpClient(patience, told=told.append)
        )
    return found.value, told, time.monotonic() - began


@pytest.fixture
def untrusted(tmp_path):
    """Address of a server whose certificate nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "server.pem").write_bytes(pem + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_another_attempt_cannot_change_ends_at_once_with_its_reason(untrusted, small_set):
    with DataverseServer(small_set) as plain:
        said = {
            "http://no_such!host": "there is no server of this name",
            plain.url.replace("http:", "https:"): "no encrypted connection",
            untrusted: "its certificate is not trusted (self-signed certificate); REQUESTS_CA_BUNDLE names",
        }
        for server, words in said.items():
            error, told, seconds = ask(server)
            assert str(error).startswith(f"{server}/api/datasets/")
            assert words in str(error)
            assert (
                exit_code(error) is ExitCode.STOPPED
            )  # nothing is wrong with the command: another network may do
            assert (told, seconds < 2) == ([], True)


def test_certificates_of_the_user_are_trusted(untrusted, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "server.pem"))
    error, _, _ = ask(untrusted, QUICK)
    assert "501" in str(error)  # the answer of a server that knows no methods


class _Proxy(BaseHTTPRequestHandler):
    """Answers for any host from the server at `behind`, as proxies do that are asked for whole addresses."""

    behind, asked = "", []

    def do_GET(self):
        self.asked.append(self.path)
        place = urlsplit(self.path)._replace(scheme="", netloc="").geturl()
        with build_opener(ProxyHandler({})).open(self.behind + place) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


def test_a_proxy_of_the_environment_is_asked_for_everything(small_set, tmp_path, monkeypatch):
    name = min(path.name for path in small_set.glob("*_cat_*.dng"))
    with (
        DataverseServer(small_set, names=[name]) as server,
        ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as proxy,
    ):
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(_Proxy, "behind", server.url)
        monkeypatch.setattr(_Proxy, "asked", [])
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        page = server.page.replace(server.url, "http://dataverse.invalid")
        client = HttpClient(QUICK)
        files = files_of(page, Wanted(scenes=SceneFilter()), client).files
        assert fetch(files, tmp_path / "root", lambda _: None, client=client).is_complete
        proxy.shutdown()
    (arrived,) = (path for path in (tmp_path / "root").rglob("*.dng"))
    assert arrived.read_bytes() == (small_set / name).read_bytes()
    assert len(_Proxy.asked) >= 2
    assert all(asked.startswith("http://dataverse.invalid/") for asked in _Proxy.asked)


def test_a_server_that_is_away_is_tried_again_as_often_as_planned_and_each_time_is_told():
    server = f"http://127.0.0.1:{free_port()}"
    error, told, _ = ask(server, QUICK)
    assert "Connection refused" in str(error)
    assert len(told) == QUICK.attempts - 1
    assert all("Connection refused; trying again in 0." in line for line in told)


def test_a_silent_server_is_named_while_it_is_waited_for(small_set, monkeypatch):
    monkeypatch.setattr(http_client, "_SILENCE", 0.02)
    with DataverseServer(small_set) as server:
        told = []
        server.reply_faults = [lambda reply: poll(lambda: told) and reply]
        load_catalog(server.page, HttpClient(QUICK, told=told.append))
    assert told == [f"waiting for {server.url}/api/datasets/:persistentId/"]


def test_a_download_that_waits_says_why_in_the_view(small_set, tmp_path, capsys):
    patient = Patience(attempts=3, delay=0.8, longest=0.8, connect=5, read=5)
    name = min(path.name for path in small_set.glob("*_cat_*.dng"))
    with DataverseServer(small_set, names=[name]) as server, watching_fetch("plain") as show:
        server.faults[name] = [faults.status(503)]
        client = HttpClient(patient)
        files = files_of(server.page, Wanted(scenes=SceneFilter()), client).files
        assert fetch(files, tmp_path / "root", show, client=client).is_complete
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"Fetch: {name}: {server.url}/api/access/datafile/100: status 503; trying again in 0."
    )


def test_a_line_of_a_fetch_has_files_bytes_rate_and_time_left(monkeypatch, capsys):
    counts = Counts(files=34, here=3, fetched=20, failed=1, expected=60_000_000, received=40_000_000, transferred=30_000_000,
                    active={"a.dng": 1_500_000}, waiting="")  # fmt: skip
    now = [0.0]
    monkeypatch.setattr(fetch_view.time, "monotonic", lambda: now[0])
    with watching_fetch("plain") as show:
        for now[0] in (1.0, 10.0, 10.5):
            show(counts)
    said = capsys.readouterr().err
    assert said == "Fetch: 23 of 34 files are there, 1 failed; 40.0 MB of 60.0 MB, 3.0 MB/s, 7 s left\n"
