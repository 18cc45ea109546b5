"""Rows of a live feed: filtered, and put together into batches."""

import time
from collections import deque
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rawnind.records import Cfa
from rawnind.training.live_source import Source
from rawnind.training.manifest_view import Filter, Row, apply_filters, pair_of
from rawnind.training.options import Input, SampleOptions
from rawnind.training.selection import Selection, Split, in_validation


class Filters:
    """Which of the given rows become samples.

    Unlike `CropDataset` it does not know all scenes: it leaves each one to validation whose hash says so, even where that
    leaves none for training.

    Args:
        selection: what to keep.
        options: how samples are made.
        share: expected share of scenes that are kept for validation.
    """

    def __init__(self, selection: Selection, options: SampleOptions, share: float) -> None:
        self._split = selection.split
        self._share = share
        self._filters: list[Filter] = [
            ("test reserve", ~pc.field("test_reserve")),
            ("stored size >= crop_size", pc.field("size") >= options.crop_size),
            *selection.filters(),
        ]
        if options.input is Input.RAW:
            self._filters.append(("input raw", pc.field("cfa") == str(Cfa.BAYER)))
        self.left_out = dict.fromkeys((name for name, _ in self._filters), 0)

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        """The rows that are kept, by column name."""
        kept: list[dict[str, Any]] = apply_filters(rows, self._filters, self.left_out).to_pylist()
        return [
            row for row in kept if self._split is Split.ALL or not in_validation(row["scene"], self._share)
        ]


class Rows:
    """Rows of a source, in batches.

    Args:
        source: where they come from.
        filters: which of them to keep.
        batch_size: rows in a batch; the last one may have fewer.

    Attributes:
        done: the consumer is done with everything below this position.
        last_news: when rows came last.
    """

    def __init__(self, source: Source, filters: Filters, batch_size: int) -> None:
        self.source = source
        self._filters = filters
        self._batch_size = batch_size
        self._waiting: deque[tuple[int, Row]] = deque()
        self.done = 0
        self.last_news = 0.0

    @property
    def ended(self) -> bool:
        """Whether all were given."""
        return self.source.ended and not self._waiting

    def batch(self) -> tuple[int, list[Row]] | None:
        """The next batch and the position behind it; None where there are not enough rows for one at the moment."""
        while len(self._waiting) < self._batch_size and not self.source.ended:
            rows = self.source.fetch(self._batch_size - len(self._waiting), self.done)
            if not len(rows):
                break
            self.last_news = time.perf_counter()
            for row in self._filters(rows):
                self._waiting.append((row["position"], _row(row)))
        if not self._waiting or (len(self._waiting) < self._batch_size and not self.source.ended):
            return None
        chosen = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        return chosen[-1][0] + 1, [row for _, row in chosen]


def _row(values: dict[str, Any]) -> Row:
    return Row(
        crop_id=values["crop_id"],
        pair=pair_of(values),
        row_group=values["row_group"],
        valid_fraction=values["valid_fraction"],
    )
