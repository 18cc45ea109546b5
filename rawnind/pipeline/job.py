"""What the processes of one run share."""

from dataclasses import dataclass

from rawnind.fetch.on_demand import OnDemand
from rawnind.installation import Installation
from rawnind.options import Options
from rawnind.output.lock import RunLock
from rawnind.planning import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What driver, bridge and workers of one run share.

    Attributes:
        output: local path or URI of the output folder.
        run: name of the run in events.jsonl and in the ledger of attempts.
        root: the folder that the photos come from.
        plan: every scene of the run.
        options: of the run.
        fetched: the data set whose photos the workers fetch; None: they are there.
        changed: keys of the scenes whose files have changed since they were committed.
        lock: of the run on the output folder; None: nobody checks it.
        installation: what the driver imports; None: nobody compares it.
    """

    output: str
    run: str
    root: str
    plan: Plan
    options: Options
    fetched: OnDemand | None = None
    changed: frozenset[str] = frozenset()
    lock: RunLock | None = None
    installation: Installation | None = None
