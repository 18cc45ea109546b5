"""An S3 server for tests: moto, in a process of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.polling import free_port, poll

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}
PROGRAM = shutil.which("moto_server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
"""None where moto is not installed."""


def _answers(request):
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(request, timeout=5):  # noqa: S310
        return True


@contextlib.contextmanager
def s3_server():
    """Starts the server with a bucket `bucket`; its port."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    server = subprocess.Popen(
        [PROGRAM, "-p", str(port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        poll(lambda: _answers(request))
        yield port
    finally:
        server.terminate()
        server.wait()


def uri_query(port):
    """What a URI of that server ends with."""
    return f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
