"""The summary of a run: what a flow knows at its end, and its form in Prefect's UI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

from prefect_fanout._errors import AllItemsFailed, TooManyFailures
from prefect_fanout._text import markdown_text, shown_text
from prefect_fanout.tasks.advice import what_to_do
from prefect_fanout.tasks.progress import in_run
from prefect_fanout.tasks.timeline import MERMAID_BARS, Span, lanes_of, mermaid

EXAMPLES = 20
"""Most failures that are shown one by one; the ledger has them all."""

STATUSES = ("ok", "duplicate", "skipped", "failed")
"""The usual statuses in the order in which they are shown; others come after them."""

_PACKAGES = ("prefect-fanout", "prefect", "pyarrow", "pandas")
_ITEM_COLUMNS = ("url", "source", "path")


def judge(run: Path, statuses: Mapping[str, int], *, failed: int, max_failed: int | None, noun: str) -> None:
    """Raise if so many items failed that the finished run counts as failed.

    Args:
        run: the run directory, where everything is written.
        statuses: items of this run's input per status, whether this run or an earlier one worked on them.
        failed: failed items of the ledger.
        max_failed: most of those that are allowed; None allows any number.
        noun: one item, for the message.

    Raises:
        AllItemsFailed: the input has failed items and none that is ok, whatever `max_failed` allows.
        TooManyFailures: more items failed than `max_failed` allows.
    """
    written = f"the ledger in {run} says why. Run again with retry_failed to try them once more."
    if statuses.get("failed") and not statuses.get("ok"):
        count = statuses["failed"]
        whole = f"The one {noun} of this run" if count == 1 else f"All {count:,} {noun}s of this run"
        raise AllItemsFailed(f"{whole} failed; {written}")
    if max_failed is not None and failed > max_failed:
        raise TooManyFailures(
            f"{failed:,} {noun}s failed, and {max_failed:,} are allowed (max_failed). Everything else is done; "
            f"{written}"
        )


def default_versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that every pipeline uses."""
    versions = {"python": python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # run from a source tree that is not installed
    return versions


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a person should see although the items it is about did not fail.

    Attributes:
        title: what it is, in a few words.
        text: what to know or to do about it, in full sentences.
        columns: heads of the table that belongs to it.
        rows: the table; it is shown as a whole, so whoever makes it keeps it short.
    """

    title: str
    text: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str | int]] = ()


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a flow knows at the end of a run.

    Attributes:
        title: what was done, for a person.
        pipeline: name of the pipeline.
        run: the run directory.
        counts: items of the ledger per status, those of earlier runs too.
        failures: failed items of the ledger per kind of error.
        seconds: wall time of this run.
        bytes_read: bytes that this run read.
        items: items that this run was given.
        skipped: those of them that an earlier run had finished.
        timeline: task runs of this run.
        examples: ledger rows of failed items; the first `EXAMPLES` are shown.
        figures: what else was counted in the items of the ledger, by name, in the order to show.
        notices: shown before everything else.
        options: what the run was asked for.
        versions: versions of the packages that took part.
        advice: what to do about kinds of failure, beyond `prefect_fanout.tasks.advice`.
    """

    title: str
    pipeline: str
    run: Path
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    seconds: float
    bytes_read: int
    items: int
    skipped: int
    timeline: Sequence[Span]
    examples: Sequence[Mapping[str, Any]]
    figures: Mapping[str, int] = field(default_factory=dict)
    notices: Sequence[Notice] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=default_versions)
    advice: Mapping[str, str] = field(default_factory=dict)

    @property
    def worked_on(self) -> int:
        """Items that this run itself worked on."""
        return self.items - self.skipped

    @property
    def items_per_s(self) -> float:
        """Items per second of wall time."""
        return self.worked_on / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Bytes per second of wall time."""
        return self.bytes_read / self.seconds if self.seconds > 0 else 0.0

    @property
    def statuses(self) -> dict[str, int]:
        """The counts in the order to show: the usual statuses first."""
        usual = {name: self.counts[name] for name in STATUSES if name in self.counts}
        return usual | {name: count for name, count in self.counts.items() if name not in usual}

    @property
    def nothing_left(self) -> str:
        """The sentence for a run that had nothing to do; empty for any other."""
        if self.worked_on > 0:
            return ""
        if not self.items:
            return "There was nothing to do: the list has no items."
        which = "the one item was" if self.items == 1 else f"all {self.items:,} items were"
        return f"Nothing was left to do: {which} finished by an earlier run."

    def advice_for(self, kind: str) -> str:
        """Give what to do about a kind of failure."""
        return what_to_do(kind, self.advice)


def item_text(row: Mapping[str, Any]) -> str:
    """Give the text by which a person knows the item of a ledger row."""
    for name in (*_ITEM_COLUMNS, *(name for name in row if name.endswith("_key")), "index"):
        if row.get(name) is not None:
            return shown_text(row[name])
    return ""


def rate_text(per_s: float) -> str:
    """Write items per second for a person."""
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.2g}"


def bytes_text(count: float) -> str:
    """Write a number of bytes for a person, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def number_text(count: int, noun: str) -> str:
    """Write a number of things for a person: "1 item", "2 items"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds_text(seconds: float) -> str:
    """Write a duration for a person."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def summary_markdown(summary: RunSummary) -> str:
    """Write the summary for Prefect's UI: GitHub's tables, and one Mermaid chart of at most `MERMAID_BARS` bars.

    Texts of items and errors are escaped: none of them can end a table, hide where a link leads, or bring HTML.
    """
    return "\n\n".join(part for part in _parts(summary) if part) + "\n"


def _parts(summary: RunSummary) -> Iterator[str]:
    yield f"# {markdown_text(summary.title)}"
    yield summary.nothing_left or _work_text(summary)
    for notice in summary.notices:
        yield f"## {markdown_text(notice.title)}"
        yield markdown_text(notice.text)
        yield _typed_table(notice.columns, notice.rows)
    if summary.notices and summary.counts:
        yield "## What became of the items"  # or the table would seem to belong to the notice
    yield _typed_table(["status", "items"], list(summary.statuses.items()))
    if summary.figures:
        yield "## What was counted"
        yield _typed_table(["what", "number"], list(summary.figures.items()))
    if summary.failures:
        yield "## Failures"
        rows = [[markdown_text(kind), f"{n:,}", summary.advice_for(kind)] for kind, n in summary.failures.items()]
        yield _table(["kind", "items", "what to do"], rows, "lrl")
    if summary.examples:
        yield "## Failed items, for example"
        rows = [
            [
                markdown_text(item_text(row)),
                f"{markdown_text(row.get('error_kind') or 'unknown')}: {markdown_text(row.get('error') or '')}",
            ]
            for row in summary.examples[:EXAMPLES]
        ]
        yield _table(["item", "why"], rows, "ll")
    yield from _timeline_parts(summary)
    run = markdown_text(summary.run)
    yield f"Everything is in {run}: ledger.parquet has one row per item, report.html the whole story."


def _work_text(summary: RunSummary) -> str:
    """What this run did, and how fast."""
    items = number_text(summary.items, "item")
    if summary.skipped:
        were = "was" if summary.skipped == 1 else "were"
        items += f". {summary.skipped:,} {were} finished by an earlier run; {summary.worked_on:,}"
    read = (
        f", {bytes_text(summary.bytes_read)} read ({bytes_text(summary.bytes_per_s)}/s)" if summary.bytes_read else ""
    )
    return f"{items} took {seconds_text(summary.seconds)}: **{rate_text(summary.items_per_s)} items/s**{read}."


def _timeline_parts(summary: RunSummary) -> Iterator[str]:
    lanes = lanes_of(summary.timeline, most_bars=MERMAID_BARS, most_lanes=MERMAID_BARS)
    if not lanes.lanes:
        return
    yield "## Workers"
    notes = ["The number on a bar is its items."]
    if lanes.short:
        notes.append("The axis shows seconds and milliseconds of the clock.")
    if lanes.joined:
        bars = sum(len(lane.bars) for lane in lanes.lanes)
        notes.append(f"{lanes.runs:,} task runs are drawn as {bars:,} bars: neighbours are joined.")
    if lanes.hidden_workers:
        notes.append(f"{lanes.hidden_workers:,} workers that did less are left out.")
    yield " ".join(notes)
    yield f"```mermaid\n{mermaid(lanes)}\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def _typed_table(head: Sequence[str], rows: Sequence[Sequence[str | int]]) -> str:
    """A table of texts, which are escaped, and numbers, which stand to the right; nothing where it has no rows."""
    if not rows:
        return ""
    align = "".join("r" if isinstance(cell, int) else "l" for cell in rows[0])
    cells = [[f"{cell:,}" if isinstance(cell, int) else markdown_text(cell) for cell in row] for row in rows]
    return _table([markdown_text(name) for name in head], cells, align)


def _card_text(summary: RunSummary) -> str:
    """Return one line of Markdown for the UI, which cuts it at its end: the numbers come first."""
    counts = ", ".join(f"{count:,} {markdown_text(name)}" for name, count in summary.statuses.items() if count)
    return f"{counts or 'no items'} · {markdown_text(summary.title)}"


def publish_summary(summary: RunSummary, key: str) -> None:
    """Show the summary on the page of the current run; outside a run do nothing.

    Args:
        summary: what to show.
        key: of the artifact: lowercase letters, digits and dashes.
    """
    if not in_run():
        return
    try:
        create_markdown_artifact(summary_markdown(summary), key=key, description=_card_text(summary))
    except (httpx.HTTPError, PrefectException) as error:
        # The run is done and on the disk: that a page is missing in the UI must not make it fail.
        get_logger("fanout").warning("The summary of this run cannot be shown in the UI: %s", error)
