"""Photos on an object store: the same scenes, pixels and manifest as from a folder, and an outcome for whatever cannot be read."""

import http.client
import http.server
import random
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import numpy as np
import pytest

import rawnind
from rawnind.errors import IndexInvalidError, SourceError
from rawnind.output.store import Store
from rawnind.reasons import Reason
from rawnind.source.decode import decode, headers
from rawnind.source.fingerprint import fingerprint
from rawnind.source.index import index_to_yaml, load_index
from rawnind.source.sha1_cache import sha1s_of
from tests.s3_faults import FaultyProxy
from tests.small_set import CROPS, digests


def upload(store, folder):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: store.write(path.relative_to(folder).as_posix(), path.read_bytes()), folder.rglob("*.dng")))  # fmt: skip


@pytest.fixture
def bucket(s3):
    """URI of an empty folder in a bucket."""
    return f"s3://bucket/{uuid.uuid4().hex}?{s3}"


@pytest.fixture
def uploaded(bucket, small_set):
    upload(Store(bucket), small_set)
    return bucket


def photos(index):
    return [ref for scene in index.scenes for ref in (*scene.ground_truths, *scene.noisy)]


def seen(index):
    return [(scene.key, scene.test_reserve, [ref.sha1 for ref in (*scene.ground_truths, *scene.noisy)]) for scene in index.scenes]  # fmt: skip


def test_a_bucket_has_the_scenes_pixels_and_headers_of_the_folder(uploaded, small_set):
    there, here = load_index(uploaded), load_index(small_set)
    assert seen(there) == seen(here)
    good = 0
    for far, near in zip(photos(there), photos(here), strict=True):
        assert far.path.startswith("s3://")
        try:
            pixels, sensor = decode(near)
        except SourceError as error:
            with pytest.raises(SourceError) as found:
                decode(far, delay=0)
            assert (found.value.reason, found.value.detail) == (error.reason, error.detail)  # noqa: PT017 - of both
            continue
        far_pixels, far_sensor = decode(far)
        np.testing.assert_array_equal(far_pixels, pixels)
        assert far_sensor == sensor
        assert headers(far) == headers(near)
        good += 1
    assert good > 5


def test_an_index_yaml_in_the_bucket_decides_and_one_elsewhere_may_name_the_bucket(
    uploaded, small_set, tmp_path
):
    here = load_index(small_set)
    text = index_to_yaml(here).replace("test_reserve: false", "test_reserve: true", 1)
    Store(uploaded).write("dataset_index.yaml", text.encode())
    there = load_index(uploaded)
    assert there.test_reserve > here.test_reserve
    local = tmp_path / "pairs.yaml"
    local.write_text(f"root: '{uploaded}'\n{text}")
    assert seen(load_index(local)) == seen(there)
    assert photos(load_index(local)) == photos(there)
    local.write_text(index_to_yaml(there))
    assert photos(load_index(local)) == photos(there)


def test_a_file_uri_is_a_local_path(small_set):
    assert photos(load_index(f"file://{small_set}")) == photos(load_index(small_set))


def test_what_is_missing_or_not_reachable_is_an_outcome(uploaded, s3):
    ref = photos(load_index(uploaded))[0]
    before = fingerprint(load_index(uploaded).scenes[0])
    Store(uploaded).remove(ref.filename)
    with pytest.raises(SourceError) as found:
        decode(ref, delay=0)
    assert found.value.reason is Reason.MISSING_FILE
    assert isinstance(sha1s_of([ref.path])[ref.path], FileNotFoundError)
    assert (
        fingerprint(load_index(uploaded).scenes[0]) != before
        or ref.scene != load_index(uploaded).scenes[0].name
    )
    with pytest.raises(IndexInvalidError, match="cannot list s3://no-such-bucket/x"):
        load_index(f"s3://no-such-bucket/x?{s3}")


def test_credentials_in_the_address_of_a_source_are_refused():
    with pytest.raises(IndexInvalidError, match=r"s3://\*\*\*@bucket/photos has credentials"):
        load_index("s3://KEY:SECRET@bucket/photos")


def require_few_requests(paths, scenes, shards, failed):
    """At most what docs/cluster.md says about requests that succeed; those for leases and events go by the clock.

    One that failed may have others repeated that succeeded before it.
    """
    kinds = Counter(
        ("LIST" if "list-type" in path else method, folder)
        for method, path in paths
        for folder in ("shards", "parts", "attempts", "locks", "events")
        if f"/{folder}/" in unquote(path)
    )
    assert kinds["PUT", "shards"] == shards
    assert not kinds["GET", "shards"]
    assert kinds["HEAD", "shards"] <= shards + failed
    assert kinds["PUT", "parts"] <= scenes
    by_clock = sum(count for (_, folder), count in kinds.items() if folder in {"locks", "events"})
    assert len(paths) - by_clock <= 60 + 14 * scenes + 2 * shards + failed


def test_from_a_bucket_into_a_bucket_that_are_busy_the_manifest_has_the_same_bytes_as_locally(
    cluster, uploaded, undisturbed, s3, tmp_path
):
    """Lost responses and uploads that break off, after which a run may have to be run again, are those of test_s3_trouble."""
    output, port = f"s3://bucket/{uuid.uuid4().hex}?{s3}", s3.partition("127.0.0.1:")[2].partition("&")[0]
    seed = random.SystemRandom().randrange(10**6)
    with FaultyProxy(int(port), seed=seed, share=0.05, kinds=("500", "503")) as proxy:
        far = [uri.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy.port}") for uri in (uploaded, output)]
        summary = rawnind.prepare(*far, **CROPS)
    print(f"seed {seed}: {dict(proxy.happened)}")
    assert summary.scenes.open == 0
    store = Store(output)
    own = output.partition("?")[0].rpartition("/")[2]
    paths = [(method, path) for method, path in proxy.requests if own in path]
    failed = sum(proxy.happened.values())
    assert failed >= 3
    require_few_requests(paths, summary.scenes.planned, len(list(store.list("shards"))), failed)
    asked = Counter((method, path) for method, path in proxy.requests if ".dng" in path)
    for method, most in (("GET", 3), ("HEAD", 7)):  # as docs/cluster.md says
        counts = [count for (each, _), count in asked.items() if each == method]
        assert sum(counts) <= most * len(counts) + failed
    for entry in store.list():
        target = tmp_path / "out" / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(entry.path))
    assert digests(tmp_path / "out") == undisturbed
    assert rawnind.verify(output) == ()
    assert rawnind.prepare(uploaded, output, **CROPS) == summary


class FaultyStore:
    """Passes requests on to the S3 server; answers some of them with an error.

    Attributes:
        errors: statuses and codes of the next reads of objects.
        refused: names of objects that nobody may read.
    """

    def __init__(self, port):
        self.errors, self.refused = [], set()
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if any(name in self.path for name in store.refused):
                    return self.answer(403, _error("AccessDenied"))
                if store.errors and ".dng" in self.path:
                    status, code = store.errors.pop(0)
                    return self.answer(status, _error(code))
                upstream = http.client.HTTPConnection("127.0.0.1", port)
                upstream.request(self.command, self.path, headers=dict(self.headers))
                response = upstream.getresponse()
                return self.answer(response.status, response.read(), response.getheaders())

            do_HEAD = do_GET  # noqa: N815 - what http.server calls

            def answer(self, status, data, headers=()):
                self.send_response(status)
                kept = {name: value for name, value in headers if name.lower() not in {"connection", "date", "server", "transfer-encoding"}}  # fmt: skip
                for name, value in ({"Content-Length": str(len(data))} | kept).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, *args):
                """Is quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()


def _error(code):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@pytest.fixture
def faulty(uploaded, s3):
    """The bucket's URI through a server with faults, and that server."""
    port = int(s3.partition("127.0.0.1:")[2].partition("&")[0])
    store = FaultyStore(port)
    yield uploaded.replace(f"127.0.0.1:{port}", f"127.0.0.1:{store.server.server_port}"), store
    store.server.shutdown()
    store.server.server_close()


def test_a_store_that_is_busy_is_asked_again_and_one_that_refuses_is_an_outcome(faulty, small_set):
    uri, store = faulty
    refs = photos(load_index(uri))
    near = {ref.sha1: ref for ref in photos(load_index(small_set))}
    for errors in ([(503, "SlowDown")] * 2, [(500, "InternalError")]):
        store.errors = list(errors)
        good = next(ref for ref in refs if "coins_GT" in ref.filename)
        np.testing.assert_array_equal(decode(good, delay=0)[0], decode(near[good.sha1])[0])
        assert not store.errors
    store.refused.add(good.filename.partition("_sha1=")[0])
    with pytest.raises(SourceError, match="tried 3 times") as found:
        decode(good, delay=0)
    assert found.value.reason is Reason.UNREADABLE
    assert "ACCESS_DENIED" in found.value.detail
