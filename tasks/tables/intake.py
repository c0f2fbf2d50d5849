"""From the files that were named to those that are really read: duplicates and finished ones drop out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from prefect_fanout.tasks.ledger import Ledger
from prefect_fanout.tasks.tables.fingerprint import is_unchanged
from prefect_fanout.tasks.tables.options import CsvOptions
from prefect_fanout.tasks.tables.row import Row, failed, new_row, printable
from prefect_fanout.tasks.tables.sources import SourceFile

SUMS = ("rows_in", "rows_out", "rejected")


class Intake:
    """Writes the rows that need no reading, and yields the files that do.

    Every file is counted once in `counts`, either here ("duplicate", "failed", "skipped") or, when it was yielded, by
    whoever learns what became of it (`note`); and once in `statuses` by the status of its ledger row, which an earlier
    run may have written. `sums` adds up the records of all files that are done, in this run or before; `withheld` are
    those that fit, of files that have too many rejects.
    Belongs to the thread that owns the ledger.

    Args:
        ledger: Knows what earlier runs did; receives the rows.
        run: The run directory, where a finished file must still have its Parquet file.
        options: What the user chose.
    """

    def __init__(self, ledger: Ledger, run: Path, options: CsvOptions) -> None:
        self.items = 0
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self._ledger = ledger
        self._run = run
        self._options = options

    def note(self, row: Row) -> None:
        """Write a row to the ledger and count it."""
        self._ledger.append(row)
        self.counts[row["status"]] += 1
        self._add(row)

    def read(self, sources: Iterable[SourceFile]) -> Iterator[SourceFile]:
        """The files to ingest, in order."""
        for source in sources:
            self.items += 1
            row = self._ledger.row_of(printable(source.key))
            if source.duplicate_of is not None:
                if row is None or row["status"] != "duplicate":
                    first = printable(source.duplicate_of)
                    row = new_row(source, self._options) | {"status": "duplicate", "duplicate_of": first}
                    self.note(row)
                else:
                    self._skip(row)
            elif source.problem is not None:
                self.note(failed(new_row(source, self._options), source.problem.kind, source.problem.message))
            elif row is not None and self._is_finished(source, row):
                self._skip(row)
            else:
                yield source

    def _skip(self, row: Row) -> None:
        self.counts["skipped"] += 1
        self._add(row)

    def _add(self, row: Row) -> None:
        self.statuses[row["status"]] += 1
        for name in SUMS:
            self.sums[name] += row.get(name) or 0
        if row["status"] == "failed" and row.get("rows_in"):
            self.sums["withheld"] += row["rows_in"] - row["rejected"]

    def _is_finished(self, source: SourceFile, row: Row) -> bool:
        """Whether an earlier run did this file, with the same content, the same options, and the result still there."""
        if row["status"] == "failed" and self._options.retry_failed:
            return False
        if row["options"] != self._options.result_key():
            return False
        if row["rows_in"]:  # it was judged by its rejects, and perhaps by another limit
            failed_by_rejects = row["error_kind"] == "too_many_rejects"
            if self._options.too_many_rejects(row["rejected"], row["rows_in"]) != failed_by_rejects:
                return False
        outputs = [row[name] for name in ("path", "rejects_path") if row[name] is not None]
        kept = all((self._run / output).is_file() for output in outputs)
        return kept and is_unchanged(source.path, row, source.within)
