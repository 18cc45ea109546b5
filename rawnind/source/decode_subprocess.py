"""Decodes in a child process, for files that may crash the decoder.

`python -m rawnind.source.decode_subprocess OUT` reads an ImageRef as JSON from standard input and writes the decoded
photo, or the reason for its failure, to the file OUT.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rawnind.errors import OutputError, SourceError
from rawnind.reasons import Reason
from rawnind.records import ImageRef, Sensor
from rawnind.source.decode import decode

_REF = TypeAdapter(ImageRef)
_SENSOR = TypeAdapter(Sensor)

_CHILDREN = 3
"""Children that must die over a file before it is blamed: any one of them may be killed for another reason."""

_NO_ROOM = 74  # EX_IOERR of sysexits.h
_PR_SET_PDEATHSIG = 1  # prctl(2)


def decode_isolated(ref: ImageRef) -> tuple[NDArray[np.uint16], Sensor]:
    """What `decode.decode` returns and raises; a file that kills its process raises SourceError(WORKER_DIED).

    Raises:
        OutputError: The folder for temporary files has no room for the photo.
        RuntimeError: The child failed in our own code.
    """
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        answer = Path(folder) / "answer.npz"
        for _ in range(_CHILDREN):
            child = subprocess.run(  # noqa: S603 - our own module, no shell
                [sys.executable, "-P", "-m", "rawnind.source.decode_subprocess", str(answer)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # -P: not the current folder
                input=_REF.dump_json(ref),
                stderr=subprocess.PIPE,
                check=False,
            )
            if child.returncode >= 0:
                break
        else:
            died = signal.Signals(-child.returncode).name
            raise SourceError(
                Reason.WORKER_DIED,
                f"{ref.filename}: {died} while decoding it in a child process ({_CHILDREN} times)",
            )
        if child.returncode == _NO_ROOM:
            raise OutputError(f"cannot write temporary files in {folder}; free space, or set TMPDIR")
        if child.returncode:
            messages = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise RuntimeError(
                f"decoding {ref.filename} in a child process ended with {child.returncode}: {messages[-1]}"
            )
        return _answer(answer)


def _answer(path: Path) -> tuple[NDArray[np.uint16], Sensor]:
    with np.load(path, allow_pickle=False) as values:
        if "reason" in values:
            raise SourceError(Reason(str(values["reason"])), str(values["detail"]))
        return values["visible"], _SENSOR.validate_json(str(values["sensor"]))


def _die_with_parent() -> None:
    """A worker that is killed must not leave a decoder behind that never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _main(answer: str) -> int:
    _die_with_parent()
    ref = _REF.validate_json(sys.stdin.buffer.read())
    values: dict[str, Any]
    try:
        visible, sensor = decode(ref)
    except SourceError as error:
        values = {"reason": str(error.reason), "detail": error.detail}
    else:
        values = {"visible": visible, "sensor": json.dumps(_SENSOR.dump_python(sensor, mode="json"))}
    try:
        np.savez(answer, **values)
    except OSError:
        return _NO_ROOM
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
