"""The folder of real photos and of small pairs with known answers."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    folder = os.environ.get("RAWNIND_DATA")
    if not folder:
        pytest.skip("RAWNIND_DATA is not set: no real index and no real photos to test with")
    return Path(folder)
