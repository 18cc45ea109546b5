"""`rawnind fetch` beside parallel curl from the same server, its memory, and bytes that come twice when it is interrupted.

`make bench` prints two tables: 200 files of 5 MB, and a fetch that is interrupted or killed 30 times at random moments. As a
plain test both are small. The server is the tests' Dataverse, in a process of its own, which counts what the client's system has
acknowledged. Ctrl-C takes what has come, and nothing comes twice. After a kill what waits in a connection's receive buffer does: next to
nothing of 3 MB/s, and 1 to 2 MB from a server that is faster than the checksums. A smaller buffer (SO_RCVBUF, 256 kB) makes that 0.2 MB, and
holds each connection to 2.6 MB/s where an answer takes 100 ms; so it has none. curl checks nothing; `curl with the same checksums` has md5sum and sha1sum read each file that curl has written, while
curl writes the next ones. Where server and client share few CPUs and the connection has no limit, that is what is possible at
all: the two hashes take twice as much CPU time as the transfer.

python benchmarks/bench_fetch.py serve FOLDER SECONDS    the server; prints its address, and at the end what it sent, as JSON
"""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from rawnind.source.http_client import BLOCK
from tests.fetch.dataverse_server import DataverseServer
from tests.polling import poll

pytestmark = pytest.mark.timeout(1200)  # 1 GB, some times over

CONNECTIONS = 8
FILES, SIZE = 200, 5_000_000
INTERRUPTIONS = 30


def make_files(folder, count, size):
    folder.mkdir()
    for number in range(count):
        data = os.urandom(size)
        sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        (folder / f"Bayer_scene{number // 10}_ISO{number % 10 + 1}00_sha1={sha1}.dng").write_bytes(data)


@contextlib.contextmanager
def serving(folder, pace=0.0):
    """The page's address, and what has arrived once the block has ended."""
    words = [sys.executable, __file__, "serve", str(folder), str(pace)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    report = {"page": server.stdout.readline().strip()}
    try:
        yield report
    finally:
        report["arrived"] = json.loads(server.communicate("\n")[0])


def serve(folder, pace):
    with DataverseServer(folder) as server:
        server.pace = pace
        server.reply()
        print(server.page, flush=True)
        sys.stdin.readline()
        print(json.dumps(server.arrived))


def command(page, root):
    return [sys.executable, "-m", "rawnind.cli", "fetch", page, "--root", str(root), "--jobs", str(CONNECTIONS), "--progress", "none"]  # fmt: skip


def run_fetch(page, root):
    """Seconds, CPU seconds and peak memory in MB of the whole command."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _MEASURED, *command(page, root)], env=environment, stdout=subprocess.PIPE, check=True)  # fmt: skip
    cpu, memory = map(float, done.stdout.split())
    return time.perf_counter() - began, cpu, memory


# A process of its own: Linux counts the memory of the process that forked, here pytest's, among that of its child.
_MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def on_disk(root):
    """Bytes in partial and whole files."""
    total = 0
    for path in [*root.glob("*.dng"), *root.glob(".rawnind-fetch/parts/*")]:
        with contextlib.suppress(FileNotFoundError):  # a part has got its name
            total += path.stat().st_size
    return total


def run_curl(page, folder, out):
    """Seconds and CPU seconds of parallel curl, alone and with the same checksums."""
    base = page.partition("/dataset.xhtml")[0]
    names = sorted(path.name for path in folder.iterdir())
    files = [
        (f"{base}/api/access/datafile/{number}", str(out / name)) for number, name in enumerate(names, 100)
    ]
    lines = "".join(f'url = "{url}"\noutput = "{path}"\n' for url, path in files)
    alone = ["curl", "-sS", "-Z", "--parallel-max", str(CONNECTIONS), "-K", "-"]
    checked = ["xargs", "-0", "-P", str(CONNECTIONS), "-n", "16", "sh", "-c", _CHECKED_CURL, "sh"]
    return [
        measured(words, text, out)
        for words, text in ((alone, lines), (checked, "\0".join(word for file in files for word in file)))
    ]


# Keeps its connection for eight files, as one of fetch's threads does.
_CHECKED_CURL = """
for word; do case $word in http*) echo "url = $word";; *) echo "output = $word";; esac; done | curl -sS -K -
for word; do case $word in http*) ;; *) md5sum "$word"; sha1sum "$word";; esac; done
"""


def measured(words, text, out):
    out.mkdir()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        words, input=text, text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(out)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("pace", [0.0, 0.004], ids=["unlimited", "125 MB/s in all"])
def test_throughput_beside_curl(tmp_path, request, pace):
    bench = request.config.getoption("benchmark_enable")
    count, size = (FILES, SIZE) if bench else (20, 300_000)
    folder = tmp_path / "files"
    make_files(folder, count, size)
    rows = []
    with serving(folder, pace) as report:
        for number in range(3 if bench else 1):
            curl = run_curl(report["page"], folder, tmp_path / f"curl{number}")
            rows.append((curl, run_fetch(report["page"], tmp_path / f"root{number}")))
    fetched = {path.name: path.read_bytes() for path in (tmp_path / "root0").glob("*.dng")}
    assert fetched == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert max(fetch[2] for _, fetch in rows) < 200
    if bench:
        megabytes = count * size / 1e6
        print(f"\n{count} files of {size / 1e6:.0f} MB, {CONNECTIONS} connections, pace {pace}")
        print(
            "curl MB/s  CPU s | curl with the same checksums MB/s  CPU s | fetch MB/s  CPU s  MB of memory | of curl, of curl with the same checksums"
        )
        for ((plain, cpu), (summed, both)), (seconds, own, memory) in rows:
            print(f"{megabytes / plain:9.0f}{cpu:7.1f} |{megabytes / summed:34.0f}{both:7.1f} |{megabytes / seconds:11.0f}{own:7.1f}{memory:14.0f} |"
                  f"{plain / seconds:9.0%}{summed / seconds:33.0%}")  # fmt: skip


def interrupt(page, root, rng, share, signals):
    """Starts a fetch, and interrupts it once about `share` bytes have come; whether it had not ended by then."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = command(page, root)
    wanted = on_disk(root) + rng.uniform(0.2, 1) * share
    fetch = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    poll(lambda: fetch.poll() is not None or on_disk(root) >= wanted)
    ended = fetch.poll() is not None
    fetch.send_signal(rng.choice(signals))
    fetch.wait()
    assert not ended or fetch.returncode == 0
    return not ended


@pytest.mark.parametrize(
    ("pace", "signals", "limit"),
    [
        (0.02, [signal.SIGINT, signal.SIGKILL], BLOCK),
        (0.0, [signal.SIGINT], BLOCK),
        (0.0, [signal.SIGKILL], 6 << 20),  # Linux' largest receive buffer, as it is mostly set
    ],
    ids=["at 3 MB/s", "unlimited, Ctrl-C", "unlimited, killed"],
)
def test_interrupted_fetches_take_few_bytes_twice(tmp_path, request, pace, signals, limit):
    bench = request.config.getoption("benchmark_enable")
    if limit > BLOCK and not bench:
        pytest.skip("a measurement")
    times, count, size = (INTERRUPTIONS, FILES, SIZE) if bench else (2, 16, 4_000_000)
    folder, root = tmp_path / "files", tmp_path / "root"
    make_files(folder, count, size)
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)  # noqa: S311 - only moments
    with serving(folder, pace) as report:
        share = count * size / times / 2
        done = sum(interrupt(report["page"], root, rng, share, signals) for _ in range(times))
        run_fetch(report["page"], root)
    assert {path.name: path.read_bytes() for path in root.glob("*.dng")} == {path.name: path.read_bytes() for path in folder.iterdir()}  # fmt: skip
    twice = sum(report["arrived"].values()) - count * size
    print(f"\nseed {seed}: {done} interruptions of {CONNECTIONS} downloads of {count} files of {size / 1e6:.0f} MB: {twice / 1e6:.1f} MB came twice,"
          f" {twice / done / CONNECTIONS / 1e3:.0f} kB for each connection that was cut")  # fmt: skip
    assert done > times / 2
    assert 0 <= twice <= times * CONNECTIONS * limit


if __name__ == "__main__":
    serve(sys.argv[2], float(sys.argv[3]))
