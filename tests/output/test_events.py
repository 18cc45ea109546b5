"""events.jsonl: a log that survives restarts, several runs in one folder, and truncated lines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.output.events import NAME, EventLog, NewestEvent, read_events
from rawnind.output.store import Store


def lines(store):
    return [json.loads(line) for line in store.read(NAME).splitlines()]


def test_each_event_is_one_line_with_time_run_and_values(store):
    log = EventLog(store, "run1")
    log.add("state", to="collecting")
    log.add("commit", seq=1, scene="über/Größe\nx")
    first, second = lines(store)
    assert (first["run"], first["event"], first["to"]) == ("run1", "state", "collecting")
    assert (second["seq"], second["scene"]) == (1, "über/Größe\nx")
    assert 1.6e9 < first["time"] <= second["time"]


@settings(max_examples=20, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["begin", "state"]), st.integers()), max_size=8
    )
)
def test_the_last_event_is_the_newest_of_that_run(tmp_path_factory, events):
    store = Store(str(tmp_path_factory.mktemp("log")))
    for run, event, value in events:
        EventLog(store, run).add(event, value=value)
    for run in "ab":
        for event in ("begin", "state"):
            values = [value for r, e, value in events if (r, e) == (run, event)]
            last = EventLog(store, run).last(event)
            assert (last and last["value"]) == (values[-1] if values else None)
    assert [(e["run"], e["event"], e["value"]) for e in read_events(store)] == events


@pytest.mark.parametrize(
    "truncated", [b'{"time": 1, "run": "run1", "ev', b"\xff\xfe", b"[]\n", b"7\n", b"\n\n"]
)
def test_a_truncated_line_is_ignored(store, truncated):
    log = EventLog(store, "run1")
    log.add("begin", next_seq=4)
    with store.local(NAME).open("ab") as file:
        file.write(truncated)
    assert EventLog(store, "run1").last("begin")["next_seq"] == 4
    assert [event["next_seq"] for event in read_events(store)] == [4]


def test_what_follows_a_truncated_line_is_not_lost(store):
    EventLog(store, "run1").add("begin", next_seq=4)
    with store.local(NAME).open("ab") as file:
        file.write(b'{"time": 1, "run": "run1", "ev')
    EventLog(store, "run1").add("begin", next_seq=5)
    assert EventLog(store, "run1").last("begin")["next_seq"] == 5


def test_without_a_log_nothing_is_known(store):
    assert EventLog(store, "run1").last("begin") is None
    assert list(read_events(store)) == []


def test_a_value_that_is_no_json_is_a_bug_and_leaves_no_half_line(store):
    log = EventLog(store, "run1")
    with pytest.raises(TypeError):
        log.add("begin", value=object())
    assert not store.exists(NAME)


steps = st.lists(st.sampled_from(["commit", "state", "torn", "read", "long"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(steps=steps)
def test_the_newest_state_is_found_whatever_was_added_since_it_was_read(tmp_path_factory, steps):
    store = Store(str(tmp_path_factory.mktemp("log")))
    newest, expected = NewestEvent(store, "state"), None
    for number, step in enumerate([*steps, "read"]):
        log = EventLog(store, f"run{number}")
        if step == "state":
            log.add("state", to=number)
            expected = number
        elif step == "torn":
            with store.local(NAME).open("ab") as file:
                file.write(b'{"event": "state", "to": 77')
        elif step == "read":
            found = newest.read()
            assert (found and found["to"]) == expected
        else:
            log.add("commit", scene="x" * (100_000 if step == "long" else 10))


def test_the_newest_state_of_a_log_that_was_replaced(store):
    newest = NewestEvent(store, "state")
    EventLog(store, "run1").add("state", to="ready", why="x" * 1000)
    assert newest.read()["to"] == "ready"
    store.local(NAME).unlink()
    assert newest.read() is None
    EventLog(store, "run2").add("state", to="collecting")
    assert newest.read()["to"] == "collecting"
