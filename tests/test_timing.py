"""Times that depend on each other are consistent."""

import pytest

from rawnind import timing

TIMES = {name: value for name, value in vars(timing).items() if isinstance(value, float)}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("HEARTBEAT", 31.0),  # workers would expire between two heartbeats
        ("RESTART_GRACE", 5.0),  # --max-scenes would not hold after a restart
        ("STOP_GRACE", 30.0),  # a stopped run would end before a dead worker has expired
        ("LOCK_RENEWAL", 60.0),  # a running run would lose its folder
        ("CONSUMER_EXPIRY", 300.0),  # a training rank that waits for the others would lose its share
        ("FEED_POLL", 0.0),
    ],
)
def test_times_that_contradict_each_other_are_refused(name, wrong):
    timing.check(TIMES)
    with pytest.raises(ValueError, match=f"timing: .*{name} "):
        timing.check({**TIMES, name: wrong})


def test_a_bridge_waits_for_one_heartbeat_of_every_worker():
    assert timing.RESTART_GRACE >= timing.HEARTBEAT + timing.HEARTBEAT_MIN
