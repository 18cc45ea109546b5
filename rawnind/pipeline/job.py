"""What the processes of one run share."""

from dataclasses import dataclass
from typing import Any

from rawnind.fetch.on_demand import OnDemand
from rawnind.installation import Installation
from rawnind.options import Options
from rawnind.output.lock import RunLock
from rawnind.planning import Plan
from rawnind.recipe import Recipe


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a worker of one run is given.

    Attributes:
        output: local path or URI of the output folder.
        run: name of the run.
        root: the folder that the photos come from.
        recipe: the parameters.
        bridge: handle of the bridge actor.
        scene_timeout: seconds after which a scene is given up; None: never.
        memory: bytes that the worker may use.
        lock: of the run on the output folder; None: it is not checked.
        installation: what the driver imports; None: it is not compared.
        fetches: whether the worker fetches the photos; `root` is then the folder for them on the driver's machine.
        keep_raw: whether fetched photos stay once their scene is committed.
        shared: addresses of the files that more than one scene has.
    """

    output: str
    run: str
    root: str
    recipe: Recipe
    bridge: Any
    scene_timeout: float | None
    memory: float
    lock: RunLock | None = None
    installation: Installation | None = None
    fetches: bool = False
    keep_raw: bool = False
    shared: frozenset[str] = frozenset()
