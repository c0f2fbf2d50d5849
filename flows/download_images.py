"""The flow `download-images`: from a list of URLs to image files, a ledger and a report."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_fanout import ExecutorTaskRunner, Outcome, TimelineEntry, fan_out
from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout._text import traceback_text
from prefect_fanout.flows.recorded import url_flow
from prefect_fanout.tasks.images.client import DEFAULT_WORKERS, ClientFactory
from prefect_fanout.tasks.images.deadline import Stopped
from prefect_fanout.tasks.images.download import FLAT_FILES, Plan, download, make_folders
from prefect_fanout.tasks.images.intake import Intake
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.row import KEY, SCHEMA, Item, Row, failed, new_row
from prefect_fanout.tasks.images.seen import SeenUrls
from prefect_fanout.tasks.images.url_list import UrlList, open_list
from prefect_fanout.tasks.ledger import Ledger
from prefect_fanout.tasks.report import Notice, Progress, RunSummary, publish_summary, write_report, write_timeline
from prefect_fanout.tasks.run_directory import RunDirectory
from prefect_fanout.tasks.summary import default_versions, judge

PIPELINE = "download-images"
VERSIONS = ("requests", "urllib3", "pillow")


def _run_name() -> str:
    """What the run does, for the UI: "download 24 images -> site"."""
    given: dict[str, Any] = flow_run.parameters
    options = given.get("options")
    column = options.get("url_column") if isinstance(options, dict) else getattr(options, "url_column", None)
    try:
        expected = open_list(given["urls"], column=column or "url").expected
    except UsageError:
        expected = None  # the flow itself says what is wrong with the list
    count = "" if expected is None else f"{expected:,} "
    return f"download {count}images -> {Path(str(given['out'])).name}"


@url_flow(name=PIPELINE, flow_run_name=_run_name)
def download_images(urls: list[str] | str | Path, out: str, options: ImageOptions | None = None) -> dict[str, Any]:
    """Downloads a list of images into a run directory; run again, it goes on where it stopped.

    Cancellation and shutdown: Ctrl-C, SIGTERM and a cancelled flow run end the downloads that run, drop those that
    wait, and commit the ledger; what is not in it is fetched by the next run in the same directory.

    Args:
        urls: The URLs, or the path of a txt, csv, tsv, jsonl or parquet file that holds them. The server keeps the URLs
            as a parameter of the run, without credentials, and without queries if `keep_queries` is off.
        out: The run directory.
        options: See `ImageOptions`.

    Returns:
        Counts of this call: items, ok, failed, duplicate, skipped (finished in an earlier run), and the run directory.

    Raises:
        UsageError: the list, the folder or an option cannot be used; nothing was written.
        RunFailed: this machine could not go on, or the counts do not reconcile; the ledger is committed.
        AllItemsFailed: everything is written, but every item of the list failed, now or in an earlier run.
        TooManyFailures: everything is done and written, but more items failed than `max_failed` allows.
    """
    options = options or ImageOptions()
    clients = ClientFactory(options, urllib.request.getproxies())
    source = open_list(urls, column=options.url_column)
    with RunDirectory.open(out, pipeline=PIPELINE, fresh=options.fresh) as run:
        plan = Plan(run.path, options, clients, spread=(source.expected or 0) > FLAT_FILES)
        make_folders(plan)
        began = time.monotonic()
        with Ledger(run, SCHEMA, key=KEY) as ledger, SeenUrls() as seen:
            intake = Intake(ledger, seen, retry_failed=options.retry_failed, keep_queries=options.keep_queries)
            timeline = _download_all(source, plan, intake)
            counts = _reconcile(intake)
            ledger.compact()
            in_ledger, failures = ledger.counts(), ledger.failures()
            examples = intake.examples or ledger.failure_examples()  # those of an earlier run where this one has none
        summary = RunSummary(
            title=f"Images of {source.name}",
            pipeline=PIPELINE,
            run=run.path,
            counts=in_ledger,
            failures=failures,
            seconds=time.monotonic() - began,
            bytes_read=intake.bytes_read,
            items=intake.items,
            skipped=counts["skipped"],
            timeline=timeline,
            examples=examples,
            notices=[Notice(title="Left in place", text=note) for note in run.notes],
            options=options.model_dump(mode="json"),
            versions=default_versions() | {name: version(name) for name in VERSIONS},
        )
        publish_summary(summary, key=f"{PIPELINE}-summary")
        write_timeline(run, timeline)
        write_report(summary, run.path / "report.html")
        run.write_run_json(_run_document(source, summary))
    judge(run.path, intake.statuses, failed=in_ledger.get("failed", 0), max_failed=options.max_failed, noun="item")
    return {"run": str(run.path), "items": intake.items, **counts}


def _reconcile(intake: Intake) -> dict[str, int]:
    """Items of this call by what became of them; the usual ones are always there.

    Raises:
        RunFailed: unless every entry of the list has become exactly one thing, and none was cancelled.
    """
    counts = dict.fromkeys(("ok", "failed", "duplicate", "skipped"), 0) | dict(intake.counts)
    if cancelled := counts.get("cancelled", 0):
        raise RunFailed(f"{cancelled:,} items were cancelled. Run again with the same folder to fetch them.")
    if sum(counts.values()) != intake.items:
        raise RunFailed(f"The list has {intake.items:,} items, but the counts add up to something else: {counts}.")
    return counts


def _download_all(source: UrlList, plan: Plan, intake: Intake) -> list[TimelineEntry]:
    """Sends the items through a runner and takes their rows as they come; gives the runner's timeline."""
    workers = plan.options.workers or DEFAULT_WORKERS
    progress = Progress(f"{PIPELINE}-progress", f"Images of {source.name}", source.expected)
    with closing(progress), ExecutorTaskRunner(max_workers=workers, thread_name_prefix="download") as runner:
        shown: Counter[str] = Counter()
        try:
            for row in _rows(intake.read(source), plan, runner):
                intake.note(row)
                if progress.due():
                    shown = _advance(progress, intake.counts, shown)
        except BaseException:
            plan.clients.stop()  # the runner waits for the items that run: they shall not take their whole time
            raise
        _advance(progress, intake.counts, shown)
        return runner.timeline()


def _rows(items: Iterator[Item], plan: Plan, runner: ExecutorTaskRunner) -> Iterator[Row]:
    with closing(
        fan_out(download, items, static={"plan": plan}, chunksize=plan.options.chunksize, runner=runner)
    ) as outcomes:
        for outcome in outcomes:
            yield _row_of(outcome)


def _row_of(outcome: Outcome) -> Row:
    """The row of an item, also of one that its task could not give."""
    if outcome.ok:
        row: Row = outcome.value
        return row
    if isinstance(outcome.error, RunFailed):
        raise outcome.error
    row = new_row(outcome.item.index, outcome.item.url, outcome.item.key)
    row["attempts"] = outcome.attempts
    if outcome.status == "cancelled" or isinstance(outcome.error, Stopped):
        row.update(status="cancelled", error_kind="cancelled", error="The run ended before the item was done.")
        return row
    get_run_logger().error("A download failed in a way that was not foreseen.\n%s", traceback_text(outcome.error))
    return failed(row, "internal", f"A defect of the program, not of the item: {outcome.error!r}")


def _advance(progress: Progress, counts: Counter[str], shown: Counter[str]) -> Counter[str]:
    """Shows what is new since the last time, and gives what is shown now."""
    new = counts - shown
    bad, skipped = new["failed"] + new["cancelled"], new["skipped"]
    progress.advance(ok=new.total() - bad - skipped, failed=bad, skipped=skipped)
    return counts.copy()


def _run_document(source: UrlList, summary: RunSummary) -> dict[str, object]:
    return {
        "pipeline": PIPELINE,
        "source": source.name,
        "counts": {"items": summary.items, **summary.counts, "skipped": summary.skipped},
        "failures": summary.failures,
        "seconds": summary.seconds,
        "bytes_read": summary.bytes_read,
        "options": summary.options,
        "versions": summary.versions,
    }
