"""The flow `ingest-csv`: from CSV files to Parquet files, rejects, a ledger and a report."""

from __future__ import annotations

import heapq
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_fanout import ExecutorTaskRunner, Outcome, TimelineEntry, fan_out
from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout._text import traceback_text
from prefect_fanout.tasks.ledger import Ledger
from prefect_fanout.tasks.report import Notice, Progress, RunSummary, publish_summary, write_report, write_timeline
from prefect_fanout.tasks.run_directory import RunDirectory
from prefect_fanout.tasks.summary import judge, number_text
from prefect_fanout.tasks.tables.ingest import ingest_csv_file
from prefect_fanout.tasks.tables.intake import Intake
from prefect_fanout.tasks.tables.options import CsvOptions
from prefect_fanout.tasks.tables.row import KEY, SCHEMA, Row, failed, new_row
from prefect_fanout.tasks.tables.sources import SourceFile, find_sources

PIPELINE = "ingest-csv"
FIGURES = {
    "rows_in": "rows read",
    "rows_out": "rows written",
    "rejected": "rows rejected",
    "withheld": "rows withheld",
    "bytes_in": "bytes read",
}
FILES_SHOWN = 10  # of each notice on the page of the run, such as that of rejected rows; the ledger has them all
BATCH_ROWS = 4_096  # of the ledger in memory at once, a few megabytes


def _run_name() -> str:
    """What the run does, for the UI: "ingest 10 csv -> out"."""
    given: dict[str, Any] = flow_run.parameters
    options = given.get("options")
    follow = options.get("follow_links") if isinstance(options, dict) else getattr(options, "follow_links", False)
    try:
        count = f"{len(find_sources(given['sources'], follow_links=bool(follow))):,} "
    except UsageError:
        count = ""  # the flow itself says what is wrong with the sources
    return f"ingest {count}csv -> {Path(str(given['out'])).name}"


@flow(name=PIPELINE, flow_run_name=_run_name)
def ingest_csv(sources: list[str] | str | Path, out: str, options: CsvOptions | None = None) -> dict[str, Any]:
    """Turn CSV files into Parquet files, one each, and keep every record that does not fit beside the reason.

    Cancellation and shutdown: Ctrl-C, SIGTERM and a cancelled flow run let the files that are being read end, drop
    those that wait, and commit the ledger; a file that is not in it is read by the next run in the same directory.

    Args:
        sources: Paths or patterns such as ``exports/*.csv``.
        out: The run directory.
        options: See `CsvOptions`.

    Returns:
        Counts of this call: items, ok, failed, duplicate, skipped (finished in an earlier run); rows_in, rows_out,
        rejected and withheld (rows that fit, of files with too many rejects) of all files that are done; and the run
        directory.

    Raises:
        UsageError: A source, the folder or an option cannot be used; nothing was written.
        RunFailed: This machine could not go on, or counts do not reconcile; the ledger is committed.
        AllItemsFailed: Everything is written, but every file of the input failed, now or in an earlier run.
        TooManyFailures: Everything is done and written, but more files failed than `max_failed` allows.
    """
    options = options or CsvOptions()
    files = find_sources(sources, follow_links=options.follow_links)
    title = f"CSV files of {_named(sources)}"
    with RunDirectory.open(out, pipeline=PIPELINE, fresh=options.fresh) as run:
        began = time.monotonic()
        with Ledger(run, SCHEMA, key=KEY) as ledger:
            intake = Intake(ledger, run.path, options)
            bytes_read, timeline = _ingest_all(files, run.path, options, intake, title)
            _reconcile(intake, len(files))
            ledger.compact()
            counts, failures, examples = ledger.counts(), ledger.failures(), ledger.failure_examples()
        sums, notices = _counted(run.path)
        summary = RunSummary(
            title=title,
            pipeline=PIPELINE,
            run=run.path,
            counts=counts,
            failures=failures,
            seconds=time.monotonic() - began,
            bytes_read=bytes_read,
            items=intake.items,
            skipped=intake.counts["skipped"],
            timeline=timeline,
            examples=examples,
            figures={name: sums[key] for key, name in FIGURES.items() if sums[key] or key != "withheld"},
            notices=[*notices, *(Notice(title="Left in place", text=note) for note in run.notes)],
            options=options.model_dump(mode="json"),
        )
        publish_summary(summary, key=f"{PIPELINE}-summary")
        write_timeline(run, timeline)
        write_report(summary, run.path / "report.html")
        run.write_run_json(_run_document(sources, summary, intake, sums["empty"]))
    judge(run.path, intake.statuses, failed=counts.get("failed", 0), max_failed=options.max_failed, noun="file")
    return {"run": str(run.path), "items": intake.items, **_call_counts(intake), **_sums(intake)}


def _ingest_all(
    files: Sequence[SourceFile], run: Path, options: CsvOptions, intake: Intake, title: str
) -> tuple[int, list[TimelineEntry]]:
    """Send the files through the runner and take their rows as they come; gives the bytes read and the timeline."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = options.workers or cores  # parsing and encoding keep a core busy; more threads only take more memory
    static = {"run": str(run), "options": options, "overlap": min(workers, len(files)) < cores}
    chunksize = 1 if options.chunksize == "auto" else options.chunksize
    bytes_read = 0
    with (
        closing(Progress(f"{PIPELINE}-progress", title, len(files))) as progress,
        ExecutorTaskRunner(max_workers=workers, thread_name_prefix="ingest") as runner,
    ):
        shown: Counter[str] = Counter()
        with closing(
            fan_out(ingest_csv_file, intake.read(files), static=static, chunksize=chunksize, runner=runner)
        ) as outcomes:
            for row in _rows(outcomes, options):
                intake.note(row)
                bytes_read += row.get("bytes_in") or 0
                if progress.due():
                    shown = _advance(progress, intake.counts, shown)
        _advance(progress, intake.counts, shown)
        runner.shutdown()
        return bytes_read, runner.timeline()


def _rows(outcomes: Iterator[Outcome], options: CsvOptions) -> Iterator[Row]:
    """The row of each file, also of one that its task could not give."""
    for outcome in outcomes:
        if outcome.ok:
            yield outcome.value | {"attempts": outcome.attempts}
            continue
        if outcome.status == "cancelled":
            raise RunFailed(f"{outcome.item.source} was cancelled. Run again with the same folder to ingest it.")
        if isinstance(outcome.error, RunFailed):
            raise outcome.error
        get_run_logger().error("The ingest of a file failed in a way not foreseen.\n%s", traceback_text(outcome.error))
        row = new_row(outcome.item, options) | {"attempts": outcome.attempts}
        yield failed(row, "internal", f"A defect of the program, not of the file: {outcome.error!r}")


def _advance(progress: Progress, counts: Counter[str], shown: Counter[str]) -> Counter[str]:
    """Show what is new since the last time, and give what is shown now."""
    new = counts - shown
    bad, skipped = new["failed"], new["skipped"]
    progress.advance(ok=new.total() - bad - skipped, failed=bad, skipped=skipped)
    return counts.copy()


def _reconcile(intake: Intake, files: int) -> None:
    """Raise RunFailed unless each file became exactly one thing, and each record a row or a reject."""
    if intake.counts.total() != files or intake.items != files:
        raise RunFailed(f"{files:,} files were named, but the counts add up to something else: {_call_counts(intake)}.")
    sums = _sums(intake)
    if sums["rows_in"] != sums["rows_out"] + sums["rejected"] + sums["withheld"]:
        raise RunFailed(f"The records of all files do not reconcile: {sums}. Please report this.")


def _call_counts(intake: Intake) -> dict[str, int]:
    """Files of this call by what became of them; the usual ones are always there."""
    return dict.fromkeys(("ok", "failed", "duplicate", "skipped"), 0) | dict(intake.counts)


def _sums(intake: Intake) -> dict[str, int]:
    return {name: intake.sums[name] for name in ("rows_in", "rows_out", "rejected", "withheld")}


def _counted(run: Path) -> tuple[Counter[str], list[Notice]]:
    """Count what the files of the compacted ledger hold, and name those with rejects and those without records."""
    sums: Counter[str] = Counter()
    most: list[Row] = []
    empty: list[Row] = []
    counted = ["rows_in", "rows_out", "rejected", "bytes_in"]
    with pq.ParquetFile(run / "ledger.parquet") as ledger:
        for batch in ledger.iter_batches(BATCH_ROWS, columns=["source", "status", "path", "rejects_path", *counted]):
            read = batch.filter(pc.is_valid(batch["rows_in"]))
            sums.update({name: pc.sum(read[name]).as_py() or 0 for name in counted})
            failed = read.filter(pc.equal(read["status"], pa.scalar("failed")))
            for name, sign in (("rows_in", 1), ("rejected", -1)):
                sums["withheld"] += sign * (pc.sum(failed[name]).as_py() or 0)
            void = read.filter(pc.and_(pc.equal(read["rows_in"], pa.scalar(0)), pc.is_null(read["path"])))
            sums["empty"] += void.num_rows
            empty = (empty + void.slice(0, FILES_SHOWN).to_pylist())[:FILES_SHOWN]
            rejected = read.filter(pc.greater(read["rejected"], pa.scalar(0)))
            sums["files"] += rejected.num_rows
            most = heapq.nlargest(FILES_SHOWN, most + rejected.to_pylist(), key=lambda row: row["rejected"])
    return sums, [*_rejects_notice(run, sums, most), *_empty_notice(sums["empty"], empty)]


def _rejects_notice(run: Path, sums: Counter[str], most: Sequence[Row]) -> Iterator[Notice]:
    """Yield the notice of rejects, if there are any, with the files that have most of them."""
    if not most:
        return
    title = f"{sums['rejected']:,} of {sums['rows_in']:,} rows rejected"
    text = "What did not fit is kept in Parquet files below rejects/, with line, reason and content."
    if sums["withheld"]:
        text += (
            f" {sums['withheld']:,} rows that fit are withheld: their files have more rejects than max_rejects allows."
        )
    if sums["files"] > len(most):
        text += f" Of {sums['files']:,} files with rejected rows these have the most."
    rows = [(row["source"], row["rejected"], _first_reject(run, row), row["rejects_path"]) for row in most]
    yield Notice(title=title, text=text, columns=("file", "rejected", "the first", "kept in"), rows=rows)


def _empty_notice(count: int, empty: Sequence[Row]) -> Iterator[Notice]:
    """Yield the notice of files without a record, if there are any, with the first of them."""
    if not count:
        return
    text = "There is no record in them, so there is no Parquet file of them either."
    if count > len(empty):
        text += f" These are the first {len(empty)}."
    rows = [(row["source"], row["bytes_in"]) for row in empty]
    yield Notice(title=f"{number_text(count, 'empty file')}", text=text, columns=("file", "bytes"), rows=rows)


def _first_reject(run: Path, row: Row) -> str:
    """Why the first of a file's rejects is one; a page that only shows it need not fail when it cannot be read."""
    try:
        with pq.ParquetFile(run / row["rejects_path"]) as rejects:
            first = next(rejects.iter_batches(1, columns=["line", "message"])).to_pylist()[0]
    except (OSError, pa.ArrowInvalid, StopIteration) as error:
        return f"cannot be read: {error}"
    return f"line {first['line']:,}: {first['message']}"


def _named(sources: list[str] | str | Path) -> str:
    """The sources for a title: what the user wrote, as far as it is short."""
    named = [str(sources)] if isinstance(sources, (str, Path)) else [str(source) for source in sources]
    return named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1:,} more"


def _run_document(
    sources: list[str] | str | Path, summary: RunSummary, intake: Intake, empty: int
) -> dict[str, object]:
    return {
        "pipeline": PIPELINE,
        "source": _named(sources),
        "counts": {
            "items": summary.items,
            **summary.counts,
            "skipped": summary.skipped,
            "empty": empty,
            **_sums(intake),
        },
        "failures": summary.failures,
        "seconds": summary.seconds,
        "bytes_read": summary.bytes_read,
        "options": summary.options,
        "versions": summary.versions,
    }
