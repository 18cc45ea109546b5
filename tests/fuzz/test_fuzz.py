"""A few damaged inputs of each kind; `make fuzz` tries thousands, each time other ones."""

import secrets

import pytest

from tests.fuzz.harness import End, Report, run
from tests.fuzz.targets import TARGETS


@pytest.mark.slow
def test_damaged_inputs_end_in_an_error_or_an_outcome():
    seed = secrets.randbits(32)
    numbers = range(2 * len(TARGETS))
    report = run(seed, numbers, workers=1)
    text = "\n".join(
        [*report.lines(), *(f"input {end.number} ({end.kind}): {end.fault}" for end in report.faults)]
    )
    print(text)
    assert not report.faults, text
    assert [end.number for end in report.ends] == list(numbers)


def test_a_fault_is_counted():
    ends = [End(number=0, kind="raw", outcomes=("read",)), End(number=1, kind="index", fault="KeyError")]
    report = Report(seed=7, seconds=1.0, ends=ends)
    assert [end.number for end in report.faults] == [1]
    assert list(report.lines())[-1] == "2 inputs of seed 7 in 1 s (2 a second), 1 faults"
