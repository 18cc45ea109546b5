"""Processes a whole scene in a child process, for scenes that end their worker although none of their files does.

`python -m rawnind.pipeline.scene_subprocess OUT ROOT MEMORY` reads a scene, its recipe and the output folder as JSON from standard
input, writes shards to that folder, and writes the scene's result, or the error that must stop the run, to the file OUT.
"""

import contextlib
import json
import math
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from rawnind.child_process import CHILDREN, die_with_parent, last_line, run_module, signal_name
from rawnind.imaging.photo import Photo
from rawnind.outcomes import whole_scene_result
from rawnind.output.journal.journal import decode_result, encode_result
from rawnind.output.store import Store
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.pipeline.trouble import FATAL, decode_trouble, encode_trouble
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import ImageRef, Scene, SceneResult
from rawnind.source.decode_subprocess import decode_isolated
from rawnind.source.lost import checking_source

_TASK = TypeAdapter(tuple[Scene, Recipe, str])
_BLAS_SIDE = 256  # of matrices that OpenBLAS computes with buffers and in every thread
_MOST_LIKELY_KILLED = "1000"  # proc(5), oom_score_adj


def process_isolated(scene: Scene, recipe: Recipe, store: Store, *, root: str, memory: float) -> SceneResult:
    """What `process_scene` returns, computed in a child process whose memory is limited.

    Exceeding the limit makes the scene `failed: too_large`, as does a child that the system kills. A child that another signal
    ends makes it `failed: worker_died`.

    Args:
        scene: the planned scene.
        recipe: every parameter.
        store: the output folder.
        root: the folder that the photos come from.
        memory: bytes that the child may use.

    Raises:
        OutputError: The storage refuses.
        SourceLostError: The source folder went away.
        RuntimeError: The child failed in our own code.
    """
    store.require_root()
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        answer = Path(folder) / "answer.json"
        child = run_module(
            "rawnind.pipeline.scene_subprocess",
            [str(answer), str(root), str(memory)],
            _TASK.dump_json((scene, recipe, store.uri)),
        )
        if died := signal_name(child):
            reason = Reason.TOO_LARGE if died == "SIGKILL" else Reason.WORKER_DIED
            detail = f"{died} ended {CHILDREN} processes that did nothing but process this scene"
            return whole_scene_result(scene, recipe, reason, detail)
        if child.returncode:
            raise RuntimeError(
                f"processing {scene.key} in a child process ended with {child.returncode}: {last_line(child)}"
            )
        data = json.loads(answer.read_bytes())
    if data["trouble"]:
        raise decode_trouble(data["trouble"])
    return decode_result(data["result"].encode())


def _limit_memory(memory: float) -> None:
    """Limits this process to `memory` more bytes than it has now, and offers it to the system where memory runs out.

    OpenBLAS, which numpy uses, ends the process where it gets no memory for its buffers; so it gets them first.
    """
    np.linalg.inv(np.eye(_BLAS_SIDE))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MOST_LIKELY_KILLED)
    status = Path("/proc/self/statm")
    if math.isfinite(memory) and status.exists():
        size = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + int(memory), resource.RLIM_INFINITY))


def _main(answer: str, root: str, limit: str) -> int:
    die_with_parent()
    scene, recipe, output = _TASK.validate_json(sys.stdin.buffer.read())
    store, memory = Store(output), float(limit)
    store.pin_root()
    _limit_memory(memory)

    def read(ref: ImageRef) -> Photo:
        with checking_source(root):
            return Photo.from_visible(*decode_isolated(ref, memory=memory))

    result, trouble = "", ""
    try:
        result = encode_result(
            process_scene(scene, recipe, store, meter=Meter(), read=read, memory=memory)
        ).decode()
    except FATAL as error:
        trouble = encode_trouble(error)
    Path(answer).write_text(json.dumps({"result": result, "trouble": trouble}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
