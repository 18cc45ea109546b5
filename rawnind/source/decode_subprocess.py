"""Decodes in a child process, for files that may crash the decoder.

`python -m rawnind.source.decode_subprocess OUT [MEMORY]` reads an ImageRef as JSON from standard input and writes the decoded
photo, or the reason for its failure, to the file OUT.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rawnind.child_process import CHILDREN, die_with_parent, last_line, run_module, signal_name
from rawnind.errors import OutputError, SourceError
from rawnind.reasons import Reason
from rawnind.records import ImageRef, Sensor
from rawnind.source.decode import decode

_REF = TypeAdapter(ImageRef)
_SENSOR = TypeAdapter(Sensor)

_NO_ROOM, _NO_MEMORY = 74, 71  # EX_IOERR and EX_OSERR of sysexits.h


def decode_isolated(ref: ImageRef, *, memory: float | None = None) -> tuple[NDArray[np.uint16], Sensor]:
    """What `decode.decode` returns and raises; a file that kills its process raises SourceError(WORKER_DIED).

    Args:
        ref: the photo.
        memory: bytes that the process may use; None: unlimited.

    Raises:
        SourceError: see `decode`, and worker_died.
        MemoryError: The child had too little memory.
        OutputError: The folder for temporary files has no room for the photo.
        RuntimeError: The child failed in our own code.
    """
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        answer = Path(folder) / "answer.npz"
        arguments = [str(answer), *([] if memory is None else [str(memory)])]
        child = run_module("rawnind.source.decode_subprocess", arguments, _REF.dump_json(ref))
        if died := signal_name(child):
            raise SourceError(
                Reason.WORKER_DIED,
                f"{ref.filename}: {died} while decoding it in a child process ({CHILDREN} times)",
            )
        if child.returncode == _NO_MEMORY:
            raise MemoryError(f"decoding {ref.filename}: {last_line(child)}")
        if child.returncode == _NO_ROOM:
            raise OutputError(f"cannot write temporary files in {folder}; free space, or set TMPDIR")
        if child.returncode:
            raise RuntimeError(
                f"decoding {ref.filename} in a child process ended with {child.returncode}: {last_line(child)}"
            )
        return _answer(answer)


def _answer(path: Path) -> tuple[NDArray[np.uint16], Sensor]:
    with np.load(path, allow_pickle=False) as values:
        if "reason" in values:
            raise SourceError(Reason(str(values["reason"])), str(values["detail"]))
        return values["visible"], _SENSOR.validate_json(str(values["sensor"]))


def _main(answer: str, memory: float | None = None) -> int:
    die_with_parent()
    ref = _REF.validate_json(sys.stdin.buffer.read())
    values: dict[str, Any]
    try:
        visible, sensor = decode(ref, memory=memory)
    except MemoryError as error:
        sys.stderr.write(f"{error}\n")
        return _NO_MEMORY
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
    sys.exit(_main(sys.argv[1], *map(float, sys.argv[2:])))
