"""What the bridge gives to a consumer, as it travels."""

from dataclasses import dataclass

import pyarrow as pa

from rawnind.storage.schema import MANIFEST_SCHEMA

GIVEN_SCHEMA = MANIFEST_SCHEMA.append(pa.field("position", pa.int64(), nullable=False))
"""Columns of what a consumer is given: the manifest's, and its position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The answer to a consumer.

    Attributes:
        state: the bridge's state.
        why: the bridge's reason where the state is `error`; else empty.
        rows: what is given, as an Arrow stream with `GIVEN_SCHEMA`.
        position: where the consumer's next question begins.
        oldest: (key, stage, seconds) of the scene that has been in flight for longest; None where there is none.
    """

    state: str
    why: str
    rows: bytes
    position: int
    oldest: tuple[str, str, float] | None


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """The table of `to_bytes`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
