"""What a finished run came to, read from its folder: `run.json` and the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from prefect_fanout._errors import RunFailed
from prefect_fanout._regular import check_regular, read_regular

FAILURES_SHOWN = 10  # enough to see what is wrong; the ledger has them all
ALWAYS_SHOWN = ("items", "ok", "failed")  # and what else was counted, unless there was none of it
BATCH_ROWS = 4_096  # of the ledger in memory at once, a few megabytes
RUN_JSON_BYTES = 16 * 1024 * 1024  # read at most: a thousand times the usual


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failed item, for a person: which one, what kind of failure, and the sentence from the ledger."""

    item: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run came to.

    Attributes:
        run: The run directory.
        counts: Items by what became of them, and whatever else the pipeline counts, in the order to show.
        failures: Failed items per kind of failure.
        examples: The first failed items.
        seconds: Wall time of the run.
        notes: Sentences about files that the run left in place.
    """

    run: Path
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    examples: Sequence[Failure]
    seconds: float
    notes: Sequence[str] = ()

    def line(self) -> str:
        """The summary as one line of plain text."""
        parts = ", ".join(f"{number:,} {counted(name, number)}" for name, number in self.counts.items())
        return f"{self.run}: {parts}{f' ({self.kinds()})' if self.failures else ''}, {self.seconds:.1f} s"

    def kinds(self) -> str:
        """The kinds of failure with their numbers, as plain text."""
        return ", ".join(f"{kind} {number:,}" for kind, number in self.failures.items())


def counted(name: str, number: int) -> str:
    """The name of a count as a person writes it: "1 item", "2 items", "5 rows in"."""
    return "item" if (name, number) == ("items", 1) else name.replace("_", " ")


def read_finished(run: Path, seconds: float) -> Finished:
    """Read what the run in this folder came to.

    Args:
        run: A run directory that has its `run.json`.
        seconds: What to say of its wall time.

    Raises:
        RunFailed: The files are no longer there, or are not regular files.
    """
    try:
        return _read(run, seconds)
    except OSError as error:
        raise RunFailed(
            f"The result of the run in {run} cannot be read: {error}. Run again with this folder."
        ) from error


def _read(run: Path, seconds: float) -> Finished:
    document = json.loads(read_regular(run / "run.json", RUN_JSON_BYTES))
    counts, failures = document["counts"], document["failures"]
    shown = {name: counts.get(name, 0) for name in ALWAYS_SHOWN}
    shown |= {name: number for name, number in counts.items() if number}
    return Finished(
        run=run,
        counts=shown,
        failures=failures,
        examples=list(islice(_failures(run / "ledger.parquet"), FAILURES_SHOWN)) if failures else [],
        seconds=seconds,
        notes=document.get("notes", ()),
    )


def _failures(ledger: Path) -> Iterator[Failure]:
    """The failed rows of a compacted ledger, in its order, a batch at a time."""
    import pyarrow.parquet as pq

    check_regular(ledger)
    with pq.ParquetFile(ledger) as file:
        item = "url" if "url" in file.schema_arrow.names else "source"
        for batch in file.iter_batches(BATCH_ROWS, columns=[item, "status", "error_kind", "error"]):
            for row in batch.to_pylist():
                if row["status"] == "failed":
                    yield Failure(item=row[item] or "", kind=row["error_kind"] or "", reason=row["error"] or "")
