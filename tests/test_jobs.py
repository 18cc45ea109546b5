"""The scripts in jobs/, submitted for real through the session's job server."""

import sys
import time
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).parent.parent
EXCLUDED = ["out", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache"]


def submit(client, command):
    """Submits once the job server has an agent, which comes up some seconds after Ray does.

    It listens on port 52365, which `ray.init` cannot change: while another Ray on this machine has that port, there is none.
    """
    end = time.monotonic() + 60
    while True:
        try:
            return client.submit_job(
                entrypoint=command, runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDED}
            )
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_submitted_smoke_test_ends_with_both_counters_at_what_the_manifest_says():
    context = ray.init(ignore_reinit_error=True, log_to_driver=False)
    client = JobSubmissionClient(f"http://{context.dashboard_url}")
    job = submit(client, f"{sys.executable} jobs/smoke_test.py --max-scenes 2 --timeout 200 --steps 2")
    end = time.monotonic() + 200
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < end:
        time.sleep(0.5)
    said = client.get_job_logs(job)
    assert status == JobStatus.SUCCEEDED, said
    bridge = next(line for line in said.splitlines() if line.startswith("Bridge:     "))
    loader = next(line for line in said.splitlines() if line.startswith("DataLoader: "))
    assert bridge == "Bridge:     9 collected, 0 filtered, 2 rejected, 1 failed of 12 scenes; 36 crops"
    assert loader == "DataLoader: 9 scenes, 36 crops"
    for stage in ("decode", "align", "mask", "write"):
        assert f"\n{stage}:" in said
