"""From the entries of a list to the items that are really fetched: bad ones, duplicates and finished ones drop out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prefect_fanout.tasks.images.name import url_hash
from prefect_fanout.tasks.images.row import Item, Row, failed, new_row
from prefect_fanout.tasks.images.seen import SeenUrls
from prefect_fanout.tasks.images.text_lines import Line
from prefect_fanout.tasks.images.url import InvalidUrl, digest_key, normalise, without_credentials, without_query
from prefect_fanout.tasks.ledger import Ledger

MAX_EXAMPLES = 20
"""Failures that are kept to be shown in full; the ledger has them all."""
BATCH_LINES = 256
"""Entries that are read ahead and looked up together."""


class Intake:
    """Reads a list lazily, writes the rows that need no request, and yields the items that need one.

    Every entry is counted once in `counts`, either here ("failed", "duplicate", "skipped") or, when it was yielded,
    by whoever learns what became of it (`note`); and once in `statuses` by the status of its ledger row, which an
    earlier run may have written. `examples` holds the first failures, `bytes_read` the bytes of all
    images. Belongs to the thread that owns the ledger.
    """

    def __init__(self, ledger: Ledger, seen: SeenUrls, *, retry_failed: bool, keep_queries: bool = True) -> None:
        """Prepares.

        Args:
            ledger: Knows what earlier runs did; receives the rows.
            seen: Empty.
            retry_failed: Whether items that failed in an earlier run are yielded again.
            keep_queries: Whether the queries of URLs may be written to the ledger.
        """
        self.items = 0
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.examples: list[Row] = []
        self.bytes_read = 0
        self._ledger = ledger
        self._seen = seen
        self._keep_queries = keep_queries
        self._is_rerun = bool(ledger.counts())
        self._finished = {"ok", "duplicate"} if retry_failed else {"ok", "duplicate", "failed"}

    def note(self, row: Row) -> None:
        """Writes a row to the ledger and counts it."""
        self._ledger.append(row)
        self.counts[row["status"]] += 1
        self.statuses[row["status"]] += 1
        self.bytes_read += row["bytes"] or 0
        if row["status"] == "failed" and len(self.examples) < MAX_EXAMPLES:
            self.examples.append(row)

    def read(self, lines: Iterable[Line]) -> Iterator[Item]:
        """The items to fetch, in order."""
        reader = iter(lines)
        while batch := list(itertools.islice(reader, BATCH_LINES)):
            yield from self._admit(batch)

    def _admit(self, batch: Sequence[Line]) -> Iterator[Item]:
        """The items to fetch of some lines that follow each other."""
        begin = self.items
        self.items += len(batch)
        items: list[Item] = []
        problems: dict[int, str] = {}
        for offset, line in enumerate(batch):
            index = begin + offset
            try:
                if line.problem is not None:
                    raise InvalidUrl(line.problem)
                items.append(self._item(index, line.text))
            except InvalidUrl as error:
                problems[offset] = str(error)
                shown = self._shown(without_credentials(line.text))
                # No URL in normal form holds a blank, so these keys never meet one.
                items.append(Item(index, shown, f"invalid {url_hash(shown)} {index}"))
        earlier = self._seen.first([item.key for item in items], begin)
        for offset, item in enumerate(items):
            if offset in earlier:
                self._duplicate(item, earlier[offset])
            elif self._is_finished(item.key):
                continue
            elif offset in problems:
                self.note(failed(new_row(item.index, item.url, item.key), "invalid_url", problems[offset]))
            else:
                yield item

    def _item(self, index: int, text: str) -> Item:
        """Return the item of a valid URL, which holds no credentials."""
        target = normalise(text)
        return Item(index, self._shown(text), target if self._keep_queries else digest_key(target), target)

    def _shown(self, text: str) -> str:
        return text if self._keep_queries else without_query(text)

    def _duplicate(self, item: Item, first: int) -> None:
        key = f"{item.key}#{item.index}"  # a URL in normal form has no fragment
        if not self._is_finished(key):
            row = new_row(item.index, item.url, key)
            row.update(status="duplicate", duplicate_of=first)
            self.note(row)

    def _is_finished(self, key: str) -> bool:
        # In a new run directory nothing is: what this run itself adds never comes again, for it is a duplicate then.
        status = self._ledger.status_of(key) if self._is_rerun else None
        if status not in self._finished:
            return False
        self.counts["skipped"] += 1
        self.statuses[status] += 1
        return True
