"""The scripts in jobs/, submitted to the job server of the session's Ray."""

import sys
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from tests.polling import poll

ROOT = Path(__file__).parent.parent
EXCLUDED = ["out", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache", ".venv", ".venv-bench"]


def submit(client, command):
    """Submits a job; its id, or None while the job server has no agent: it starts some seconds after Ray."""
    try:
        return client.submit_job(
            entrypoint=command, runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDED}
        )
    except RuntimeError as error:
        if "No available agent" not in str(error):
            raise
        return None


def test_a_submitted_smoke_test_ends_with_both_counters_at_what_the_manifest_says(dashboard):
    client = JobSubmissionClient(dashboard)
    command = f"{sys.executable} jobs/smoke_test.py --max-scenes 2 --timeout 200 --steps 2"
    job = poll(lambda: submit(client, command), every=0.5)
    poll(lambda: client.get_job_status(job).is_terminal(), timeout=200, every=0.2)
    said = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, said
    assert not set("\x1b\r\b") & set(said), said  # neither colours nor lines that are drawn again
    bridge = next(line for line in said.splitlines() if line.startswith("Bridge:     "))
    loader = next(line for line in said.splitlines() if line.startswith("DataLoader: "))
    assert bridge == "Bridge:     9 collected, 0 filtered, 2 rejected, 1 failed of 12 scenes; 36 crops"
    assert loader == "DataLoader: 9 scenes, 36 crops"
    for stage in ("decode", "align", "mask", "write"):
        assert f"\n{stage}:" in said
