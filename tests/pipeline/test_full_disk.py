"""No space left: the run stops with advice, blames no file, and goes on when there is room again. Real full disks."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from rawnind.errors import OutputError

MOUNTABLE = os.name == "posix" and os.geteuid() == 0


@pytest.fixture
def disk(tmp_path):
    """A disk of a size that can be changed."""
    if not (MOUNTABLE and sys.platform == "linux"):
        pytest.skip("a full disk needs a tmpfs of its own, and only root may mount one")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "rawnind-test", folder], check=False)
    if mounted.returncode:
        pytest.skip("a full disk needs a tmpfs of its own, and mounting is forbidden here")

    class Disk:
        out = folder / "out"
        ballast = folder / "ballast"

        def fill(self):
            """Takes all the room there is."""
            with self.ballast.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(1 << 16)):
                    pass

        def free(self):
            self.ballast.unlink()

    yield Disk()
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_run_and_fails_no_file(start, prepare, faults, disk, is_whole):
    """Whoever comes to the place waits until the disk is full; what is written next does not fit."""
    for place in ("publish-shards", "publish-parts", "publish-manifest"):
        faults.inject(place, "wait")
        run = start(output=disk.out)
        faults.wait_until_reached()
        disk.fill()
        faults.release()
        with pytest.raises(OutputError, match="No space left on device"):
            run.result()
        disk.free()
    prepare(output=disk.out)
    assert is_whole(disk.out)
