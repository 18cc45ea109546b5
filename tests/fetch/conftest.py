"""Fixtures of the tests of fetching: a server with real photos, and a folder to fetch into."""

import hashlib

import pytest

from rawnind.fetch.run import fetch
from rawnind.fetch.sources import files_of
from rawnind.source.http_client import HttpClient
from tests.fetch.dataverse_server import DataverseServer
from tests.fetch.downloads import EVERYTHING, HASTY, ignore


@pytest.fixture
def server(small_set):
    """Serves the photos whose names have their SHA-1s."""
    names = [path.name for path in small_set.glob("*.dng") if hashlib.sha1(path.read_bytes()).hexdigest() in path.name]  # fmt: skip
    with DataverseServer(small_set, names=sorted(names)) as server:
        yield server


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def run(server, root):
    """Fetches from the server; what came of it."""

    def run(source=None, wanted=EVERYTHING, **options):
        client = HttpClient(HASTY)
        files = files_of(source or server.page, wanted, client).files
        return fetch(files, root, ignore, client=client, **options)

    return run
