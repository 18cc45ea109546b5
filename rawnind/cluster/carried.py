"""A plan on its way into the bridge's process."""

import gc
import pickle
from typing import Any

from rawnind.plan import Plan


class CarriedPlan:
    """Unpickles as the plan, without pauses for the garbage collector.

    A million scenes are some ten million objects that all stay. Looking for garbage among them takes longer than making
    them: 11 s of 16 s from the start of the bridge to its first answer.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (pickle.PickleBuffer(pickle.dumps(self._plan, protocol=5)),)


def _unpacked(data: pickle.PickleBuffer) -> Plan:
    was_on = gc.isenabled()
    gc.disable()
    try:
        plan: Plan = pickle.loads(data)  # noqa: S301 - it comes from Ray, which has just unpickled what it stands in
    finally:
        if was_on:
            gc.enable()
    gc.freeze()  # a process of the bridge's own: nobody there looks at these again
    return plan
