"""Reads YAML and JSON lines that may be damaged, hostile or of another program, in bounded memory.

The YAML that is read consists of mappings, lists, text, numbers, true, false and null, as YAML 1.1 spells them. Values are built from
the parser's events: PyYAML's composer follows aliases, which let 12 kB stand for millions of values, and calls itself at each level.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from rawnind.errors import RawnindError, printable

SETTINGS = 1 << 20
"""Most bytes of a recipe, a config, or the head of a manifest; ours have less than 4 kB."""

LISTING = 1 << 28
"""Most bytes of an index or of an export's entries; those of all RawNIND have 0.6 and 40 MB."""

_DEEPEST = 32
"""Levels; our own files have six."""

_MOST_VALUES = 5_000_000
"""Values of one document, of some hundred bytes each; an export of all RawNIND has a million."""

_LONGEST_NUMBER = 100
"""Characters. Python takes minutes to read some numbers of a million digits."""

_PARSER: Any = getattr(
    yaml, "CBaseLoader", yaml.BaseLoader
)  # libyaml's where it is there; used for its events alone
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_TAG = "tag:yaml.org,2002:"
_NO_KEY = object()

Parsed = TypeVar("Parsed")

Place = Annotated[int, Field(ge=0, lt=1 << 53)]
"""A place in a sequence, in a file that may be damaged; numpy and Arrow take no more than 64 bits."""


def read_yaml(
    data: bytes,
    name: str,
    error: type[RawnindError],
    *,
    most: int = SETTINGS,
    text_only: bool = False,
    condense: tuple[int, Callable[[Any], Any]] | None = None,
) -> Any:
    """The value of a YAML document; None where it is empty. Dates stay text.

    Args:
        data: the document.
        name: of the file, for the error.
        error: what is raised where the document cannot be read.
        most: bytes that are read at most.
        text_only: whether numbers, true, false and null stay text.
        condense: a level, 0 for the document's own, and a function: what it makes of each mapping and list of that level takes
            their place as soon as they end, so that a long document is never in memory as a whole.

    Raises:
        error: It is too long, too deep, no YAML, contains aliases, gives a key twice, or a value is no number of a size that Python reads.

    >>> read_yaml(b"crop_size: 512", "config.yaml", RawnindError)
    {'crop_size': 512}
    """
    if len(data) > most:
        raise error(f"{name} has more than the {most} bytes that are read")
    document = _Document(text_only=text_only, condense=condense or (-1, None))
    add = document.add
    try:
        for event in yaml.parse(data, Loader=_PARSER):
            add(event)
    except yaml.YAMLError as found:
        raise error(f"{name} is not valid YAML: {_sentence(found)}") from found
    return document.value


class _Document:
    """Builds the value of a document from the parser's events.

    Attributes:
        value: of the document.
    """

    def __init__(self, *, text_only: bool, condense: tuple[int, Callable[[Any], Any] | None]) -> None:
        self.value: Any = None
        self._text_only = text_only
        self._level, self._condense = condense
        self._open: list[Any] = []  # each collection that has not ended
        self._keys: list[Any] = []  # the key of the next value of each of them
        self._documents = 0
        self._values = 0

    def add(self, event: Any) -> None:
        """Adds an event.

        Raises:
            yaml.YAMLError: It must not follow the events before it.
        """
        kind = type(event)  # half as slow as isinstance, and an index has millions of events
        if kind is yaml.ScalarEvent:
            self._count(event)
            value = event.value if self._text_only else _scalar(event)
            if self._open and self._keys[-1] is _NO_KEY and type(self._open[-1]) is dict:
                self._add_key(value, event)
            else:
                self._add_value(value)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._begin(event)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            value = self._open.pop()
            self._keys.pop()
            if self._condense and len(self._open) == self._level:
                value = self._condense(value)
            self._add_value(value)
        elif kind is yaml.AliasEvent:
            raise _problem("aliases (*name) are not read", event)
        elif kind is yaml.DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                raise _problem("a second document begins", event)

    def _count(self, event: yaml.Event) -> None:
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _problem(f"it has more than {_MOST_VALUES} values", event)

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if len(self._open) >= _DEEPEST:
            raise _problem(f"it is nested more than {_DEEPEST} levels deep", event)
        mapping = type(event) is yaml.MappingStartEvent
        if not self._text_only and event.tag not in {None, "!", f"{_TAG}{'map' if mapping else 'seq'}"}:
            raise _unknown_tag(event)
        self._count(event)
        if self._open and self._keys[-1] is _NO_KEY and type(self._open[-1]) is dict:
            raise _problem("a list or a mapping is used as a key", event)
        self._open.append({} if mapping else [])
        self._keys.append(_NO_KEY)

    def _add_key(self, key: Any, event: yaml.Event) -> None:
        if key in self._open[-1]:
            raise _problem(f"{printable(str(key))} is given twice", event)
        self._keys[-1] = key

    def _add_value(self, value: Any) -> None:
        if not self._open:
            self.value = value
        elif type(self._open[-1]) is list:
            self._open[-1].append(value)
        else:
            self._open[-1][self._keys[-1]] = value
            self._keys[-1] = _NO_KEY


def _scalar(event: yaml.ScalarEvent) -> Any:
    text, plain = event.value, event.implicit[0]
    if event.tag not in {None, "!", f"{_TAG}str"}:
        raise _unknown_tag(event)
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) if plain else f"{_TAG}str"
    kind = tag.removeprefix(_TAG)
    if kind not in {"null", "bool", "int", "float"}:
        return text
    if len(text) > _LONGEST_NUMBER:
        raise _problem(f"a number has more than {_LONGEST_NUMBER} characters", event)
    node = yaml.ScalarNode(tag, text)
    try:
        return getattr(_CONSTRUCTOR, f"construct_yaml_{kind}")(node)
    except (ValueError, OverflowError, IndexError):  # YAML's patterns also match 0x_ and _
        raise _problem(f"{printable(text)} is not a number", event) from None


def _unknown_tag(event: Any) -> yaml.YAMLError:
    return _problem(f"the tag {printable(str(event.tag))} is not read", event)


def _problem(text: str, event: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=event.start_mark)


def _sentence(error: yaml.YAMLError) -> str:
    """What PyYAML reports, in one line without the text that it quotes."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return printable(" ".join(str(error).split()))
    mark = error.problem_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + printable(str(error.problem or error.context))


_OBJECT = TypeAdapter(dict[str, Any])


def json_object(line: bytes | str, *, most: int = SETTINGS) -> dict[str, Any] | None:
    """The object of a JSON line; None where the line is too long, nested more than about 200 levels deep, damaged, or no object.

    >>> json_object(b'{"event": "begin"}'), json_object(b'{"event": "beg')
    ({'event': 'begin'}, None)
    """
    return json_record(line, _OBJECT, most=most)


def json_record(line: bytes | str, schema: TypeAdapter[Parsed], *, most: int = SETTINGS) -> Parsed | None:
    """The record of a JSON line; None where the line is no such record, or as in `json_object`.

    Args:
        line: a line of a file that may be damaged.
        schema: of the record.
        most: bytes that are read at most.
    """
    if len(line) > most:
        return None
    try:
        return schema.validate_json(line)
    except ValidationError:
        return None
