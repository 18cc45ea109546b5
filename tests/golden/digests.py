"""SHA-256 of everything that a run makes of tests/golden/source: the proof that a change alters no byte.

`python -m tests.golden.digests OUT` prepares the four photos into OUT and compares; `--update` stores the digests anew, which
belongs into a commit that says why the bytes change. Digests hold for one set of library versions and one kind of CPU.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding

import rawnind
from tests.small_set import digests

GOLDEN = Path(__file__).parent
STORED = GOLDEN / "digests.json"
OPTIONS = {"crop_size": 32, "stride": 128}
LIBRARIES = ("numba", "numpy", "opencv-python-headless", "pyarrow", "rawpy", "scipy")


def environment():
    """What the bytes depend on besides the code."""
    return {"cpu": llvmlite.binding.get_host_cpu_name()} | {name: version(name) for name in LIBRARIES}


def made(output):
    """Digests of what this version makes, by file name."""
    rawnind.prepare(GOLDEN / "source", output, **OPTIONS)
    return digests(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--update", action="store_true", help="store the digests in digests.json")
    arguments = parser.parse_args()
    found = {"environment": environment(), "files": made(arguments.output)}
    if arguments.update:
        STORED.write_text(json.dumps(found, indent=1) + "\n")
    elif found != json.loads(STORED.read_text()):
        raise SystemExit(f"not the bytes of {STORED.name}: {json.dumps(found, indent=1)}")
    else:
        print(f"the same bytes as in {STORED.name}")


if __name__ == "__main__":
    main()
