"""YAML and JSON that is damaged, hostile or of another program ends in one printable sentence, in little memory and time."""

import sys
import time

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rawnind.documents import SETTINGS, json_object, read_yaml
from rawnind.errors import ConfigError, RawnindError


def read(data, **options):
    return read_yaml(data, "some.yaml", ConfigError, **options)


numbers = st.integers(-(10**90), 10**90) | st.floats(allow_nan=False)


def texts(size):
    """Without the line breaks of YAML 1.1 that libyaml folds and PyYAML's own scanner keeps."""
    return st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=size
    )


plain = st.recursive(
    st.none() | st.booleans() | numbers | texts(20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(9) | numbers, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(plain)
@example({"a": "2020-13-45", "<<": "=", "yes": "0x_", "1:30": "~"})
def test_what_pyyaml_writes_is_read_as_pyyaml_reads_it(value):
    text = yaml.safe_dump(value, allow_unicode=True).encode()
    assert read(text) == yaml.safe_load(text) == value
    assert read(text, text_only=True) == yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - text only


def condensed(value, level):
    """A document's value with what lies on a level made into text."""
    if isinstance(value, dict | list) and level == 0:
        return repr(value)
    if isinstance(value, dict):
        return {key: condensed(inner, level - 1) for key, inner in value.items()}
    return [condensed(inner, level - 1) for inner in value] if isinstance(value, list) else value


@given(plain, st.integers(0, 3))
def test_what_is_condensed_while_it_is_read_is_as_if_condensed_afterwards(value, level):
    text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode()
    assert read(text, condense=(level, repr)) == condensed(value, level)


BOMB = b"a0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 900)
)
"""12 kB in which each line stands for nine times the values of the one before it."""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a: 0x_", "line 1, column 4: 0x_ is not a number"),
        (b"a: !!timestamp x", r"line 1, column 4: the tag tag:yaml\.org,2002:timestamp is not read"),
        (b"a: !!python/object/apply:os.system [ls]", "the tag .* is not read"),
        (b"a: " + b"5" * 5000, "a number has more than 100 characters"),
        (b"a: " + b"1:" * 300_000 + b"1", "a number has more than 100 characters"),
        (b"[" * 900, "it is nested more than 32 levels deep"),
        (b"{a: " * 100_000, "it is nested more than 32 levels deep"),
        (b"- " * 100_000, "it is nested more than 32 levels deep"),
        (BOMB, "aliases .* are not read"),
        (b"a: &a [*a]", "aliases .* are not read"),
        (b"a: 1\nb: 2\na: 3", "line 3, column 1: a is given twice"),
        (b"{a: 1}: 2", "a list or a mapping is used as a key"),
        (b"--- 1\n--- 2", "line 2, column 1: a second document begins"),
        (b"a: [", "did not find expected node content"),
        (b"a: \xff", "invalid leading UTF-8 octet"),
        (b"\x1b[2J: *", "control characters are not allowed"),
        (b'"\\e[2J": 1\n"\\e[2J": 2', r"\\x1b\[2J is given twice"),
        (b"#" * (SETTINGS + 1), f"has more than the {SETTINGS} bytes that are read"),
    ],
)  # fmt: skip
def test_a_document_that_is_not_read_is_reported_in_one_sentence(text, why):
    started = time.process_time()
    with pytest.raises(ConfigError, match=why) as error:
        read(text)
    assert str(error.value).startswith("some.yaml ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500
    assert time.process_time() - started < 1


def test_dates_stay_text():
    assert read(b"a: 2020-13-45\nb: 2020-01-01") == {"a": "2020-13-45", "b": "2020-01-01"}


@given(st.binary(max_size=200) | st.text("&*!|>'\"%@`[]{},:?-#\n\t ~0x1._=<é", max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_an_error_of_ours(data):
    for text_only in (True, False):
        try:
            read(data, text_only=text_only)
        except RawnindError as error:
            assert str(error).isprintable()  # noqa: PT017 - both ends are right


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": ' + b"[" * sys.getrecursionlimit() * 3,
        b'{"a": ' + b'{"a": ' * 500 + b"1" + b"}" * 501,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[1]",
        b"1",
        b"",
        b'{"a": 1',
        b'{"a": "' + b"x" * SETTINGS + b'"}',
    ],
)
def test_a_json_line_that_is_no_object_is_none(line):
    assert json_object(line) is None
