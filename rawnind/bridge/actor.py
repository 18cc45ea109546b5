"""The bridge as an actor with several threads runs it: one call at a time, and results that wait for their turn are committed together."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.messages import Submission
from rawnind.bridge.validate import Checked


class BridgeActor(Bridge):
    """A bridge whose public methods any thread may call. Arguments are those of `Bridge`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._turn = threading.RLock()
        self._submitted: deque[Sequence[Checked]] = deque()
        super().__init__(*arguments, **named)

    def submit(self, submissions: Sequence[Submission]) -> None:
        """`commit`, together with what others have submitted while an earlier commit was written: each is a file of its own.

        Results are checked before their turn, as many at once as there are calls: shards are read, and hashed without the GIL.
        These results are committed when this returns. Errors as in `commit`, for these results or for those of the others.
        """
        checked = [self._check(each) for each in submissions]
        self._submitted.append(checked)
        with self._turn:
            together: list[Checked] = []
            while self._submitted:
                together += self._submitted.popleft()
            if together:
                self._commit(together)
            self._commit(checked)  # changes nothing, unless whoever was to commit them has failed


def _in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: BridgeActor, *arguments: Any, **named: Any) -> Any:
        with self._turn:
            return method(self, *arguments, **named)

    return call


for _name, _method in vars(Bridge).items():
    if not _name.startswith("_"):
        setattr(BridgeActor, _name, _in_turn(_method))
