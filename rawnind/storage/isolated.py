"""Decoding in a child process, for files that may kill whoever opens them.

`python -m rawnind.storage.isolated OUT` reads an ImageRef as JSON from standard input and writes the decoded photo, or
why there is none, to the file OUT.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rawnind.errors import SourceError
from rawnind.records import ImageRef, Reason, Sensor
from rawnind.storage.decode import decode

_REF = TypeAdapter(ImageRef)
_SENSOR = TypeAdapter(Sensor)


def decode_isolated(ref: ImageRef) -> tuple[NDArray[np.uint16], Sensor]:
    """What `decode.decode` returns and raises; a file that kills its process raises SourceError(WORKER_DIED)."""
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        answer = Path(folder) / "answer.npz"
        child = subprocess.run(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", "rawnind.storage.isolated", str(answer)],
            input=_REF.dump_json(ref),
            check=False,
        )
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            raise SourceError(
                Reason.WORKER_DIED, f"{ref.filename}: {name} while decoding it in a process of its own"
            )
        if child.returncode:
            raise SourceError(
                Reason.WORKER_DIED, f"{ref.filename}: its decoding process ended with {child.returncode}"
            )
        with np.load(answer, allow_pickle=False) as values:
            if "reason" in values:
                raise SourceError(Reason(str(values["reason"])), str(values["detail"]))
            return values["visible"], _SENSOR.validate_json(str(values["sensor"]))


def _main(answer: str) -> None:
    ref = _REF.validate_json(sys.stdin.buffer.read())
    try:
        visible, sensor = decode(ref)
    except SourceError as error:
        np.savez(answer, reason=str(error.reason), detail=error.detail)
    else:
        np.savez(answer, visible=visible, sensor=json.dumps(_SENSOR.dump_python(sensor, mode="json")))


if __name__ == "__main__":
    _main(sys.argv[1])
