"""What a person looks at: report.html here; the summary and the progress in Prefect's UI are re-exported.

report.html is one file that needs nothing else: its style and its charts are inside, it has no scripts, and a policy in
its head forbids every request. All text that comes from items, errors, names and paths is escaped.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from prefect_fanout._text import shown_text
from prefect_fanout.tasks.progress import Progress, ProgressListener, bound_listener
from prefect_fanout.tasks.report_chart import BARS, LANES, busy_share, chart
from prefect_fanout.tasks.report_style import STYLE
from prefect_fanout.tasks.run_directory import commit_file, storage_failure, temporary_name
from prefect_fanout.tasks.summary import (
    EXAMPLES,
    Notice,
    RunSummary,
    bytes_text,
    item_text,
    number_text,
    publish_summary,
    rate_text,
    seconds_text,
    summary_markdown,
)
from prefect_fanout.tasks.timeline import lanes_of, write_timeline

__all__ = [
    "Notice",
    "Progress",
    "ProgressListener",
    "RunSummary",
    "bound_listener",
    "publish_summary",
    "summary_markdown",
    "write_report",
    "write_timeline",
]

PATH_CHARS = 4_096
"""Longest path that is shown, in characters: the longest that Linux takes."""

_COLOURED = ("ok", "failed", "duplicate", "cancelled")
_WORDS: dict[bool | None, str] = {None: "not set", True: "yes", False: "no"}
_PLACES = {
    "ledger.parquet": "one row per item: what became of it, how long it took, where it is",
    "images": "the images",
    "data": "the tables, one Parquet file per source",
    "rejects": "records that did not fit, with file, line and reason",
    "timeline.parquet": "one row per task run: worker, queued, started, ended",
}


def write_report(summary: RunSummary, path: Path) -> None:
    """Write report.html.

    Args:
        summary: what to show.
        path: the file's final name.

    Raises:
        RunFailed: the disk refused.
    """
    temporary = temporary_name(path)
    text = "\n".join(_page(summary))
    try:
        try:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        commit_file(temporary, path)
    except OSError as error:
        raise storage_failure("The report", path, error) from error


def _page(summary: RunSummary) -> Iterator[str]:
    finished = datetime.datetime.now().astimezone()
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{_text(summary.title)}</title><style>{STYLE}</style></head><body><main>"
    yield f'<header><div class="eyebrow">{_text(summary.pipeline)} · finished {finished:%-d %B %Y, %H:%M} '
    yield f"({_text(finished.tzname() or 'local time')})</div><h1>{_text(summary.title)}</h1>"
    yield f"<code>{escape(shown_text(summary.run, PATH_CHARS))}</code></header>"
    yield from _outcome(summary)
    yield from _notices(summary)
    yield from _figures(summary)
    yield from _failures(summary)
    yield from _workers(summary)
    yield from _places(summary)
    yield from _about(summary)
    yield "<footer>Written by prefect-fanout. The Parquet files are the record; this page is a view of them.</footer>"
    yield "</main></body></html>"


def _outcome(summary: RunSummary) -> Iterator[str]:
    total = sum(summary.counts.values())
    failed = summary.counts.get("failed", 0)
    yield f'<section><p class="verdict">{_verdict(summary, total, failed)}</p><div class="share">'
    for name, count in summary.statuses.items():
        yield f'<i class="{_colour(name)}" style="flex:{count}" title="{_text(name)}: {count:,}"></i>' if count else ""
    yield '</div><ul class="legend">'
    for name, count in summary.statuses.items():
        yield f'<li><span class="dot {_colour(name)}"></span><b>{count:,}</b> {_text(name)}</li>'
    yield '</ul><div class="tiles">'
    skipped = f"{summary.skipped:,} done by an earlier run" if summary.skipped else ""
    yield _tile("Items of this run", f"{summary.worked_on:,}", skipped)
    yield _tile("Wall time", seconds_text(summary.seconds))
    if summary.worked_on > 0:
        yield _tile("Throughput", f"{rate_text(summary.items_per_s)} items/s")
    if summary.bytes_read:
        yield _tile("Read", bytes_text(summary.bytes_read), f"{bytes_text(summary.bytes_per_s)}/s")
    yield "</div></section>"


def _verdict(summary: RunSummary, total: int, failed: int) -> str:
    if not total:
        return summary.nothing_left
    left = f" {summary.nothing_left}" if summary.nothing_left else ""
    if not failed:
        done = (
            f"<b>All {total:,} items</b> are accounted for, and none failed." if total > 1 else "The one item is done."
        )
        return done + left
    share = 100 * failed / total
    percent = "less than 0.1" if share < 0.1 else f"{share:.1f}" if share < 10 else f"{share:.0f}"
    return f"<b>{failed:,} of {total:,} items</b> failed ({percent}%). What to do about each kind stands below.{left}"


def _notices(summary: RunSummary) -> Iterator[str]:
    for notice in summary.notices:
        yield f'<section class="notice"><h2>{_text(notice.title)}</h2><p>{_text(notice.text)}</p>'
        if notice.rows:
            heads = "".join(f"<th>{_text(name)}</th>" for name in notice.columns)
            yield f"<table><tr>{heads}</tr>"
            yield from (f"<tr>{''.join(map(_cell, row))}</tr>" for row in notice.rows)
            yield "</table>"
        yield "</section>"


def _cell(value: str | int) -> str:
    return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{_text(value)}</td>"


def _figures(summary: RunSummary) -> Iterator[str]:
    if not summary.figures:
        return
    yield '<section><h2>What was counted</h2><div class="tiles">'
    yield from (_tile(_text(name), f"{number:,}") for name, number in summary.figures.items())
    yield "</div></section>"


def _tile(name: str, value: str, more: str = "") -> str:
    return f'<div class="tile"><span>{name}</span><b>{value}</b><em>{more}</em></div>'


def _failures(summary: RunSummary) -> Iterator[str]:
    if not summary.failures:
        return
    examples: dict[str, list[Mapping[str, Any]]] = {}
    for row in summary.examples[:EXAMPLES]:
        examples.setdefault(row.get("error_kind") or "unknown", []).append(row)
    most = max(summary.failures.values())
    yield f"<section><h2>Failures <small>{number_text(len(summary.failures), 'kind')}</small></h2>"
    for number, (kind, count) in enumerate(summary.failures.items()):
        yield f'<div class="kind"><div class="line"><span class="name mono">{_text(kind)}</span>'
        yield f'<span class="count">{count:,}</span></div>'
        yield f'<div class="meter"><i style="width:{100 * count / most:.1f}%"></i></div>'
        yield f"<p>{_with_code(summary.advice_for(kind))}</p>"
        if shown := examples.get(kind):
            few = "Which" if len(shown) == count else f"{len(shown)} of {count:,}"
            yield f'<details{" open" if number == 0 else ""}><summary>{few}</summary><table class="examples">'
            yield from (
                f'<tr><td class="mono">{_text(item_text(row))}</td><td>{_text(row.get("error") or "")}</td></tr>'
                for row in shown
            )
            yield "</table></details>"
        yield "</div>"
    yield "</section>"


def _workers(summary: RunSummary) -> Iterator[str]:
    lanes = lanes_of(summary.timeline, most_bars=BARS, most_lanes=LANES)
    if not lanes.lanes:
        return
    workers = len(lanes.lanes) + lanes.hidden_workers
    yield f"<section><h2>Workers <small>{number_text(workers, 'worker')}, {number_text(lanes.runs, 'task run')}, busy "
    yield f"{100 * busy_share(summary.timeline):.0f}% of the time between the first and the last</small></h2>"
    yield f'<div class="chart">{chart(lanes, summary.timeline)}</div>'
    notes = ["Each bar is a task run; point at it to see its items."]
    if lanes.joined:
        notes = ["There are more task runs than bars: neighbours are joined, real pauses are kept."]
    if lanes.hidden_workers:
        notes.append(f"{number_text(lanes.hidden_workers, 'worker')} that did less: left out.")
    yield f'<p class="note">{" ".join(notes)}</p></section>'


def _places(summary: RunSummary) -> Iterator[str]:
    rows = [
        f'<tr><td class="mono">{_text(name)}</td><td>{_text(what)}</td></tr>'
        for name, what in _PLACES.items()
        if (summary.run / name).exists()
    ]
    code = f"from prefect_fanout.tasks.ledger import read_ledger\n\nitems = read_ledger({str(summary.run)!r})  # pandas"
    yield f'<section><h2>Where things are</h2><table class="places">{"".join(rows)}</table>'
    yield f"<pre><code>{escape(code)}</code></pre></section>"


def _about(summary: RunSummary) -> Iterator[str]:
    yield '<div class="two">'
    for title, values in (("Options", summary.options), ("Versions", summary.versions)):
        if values:
            yield f"<section><h2>{title}</h2><table>{''.join(_pairs(values.items()))}</table></section>"
    yield "</div>"


def _pairs(values: Iterable[tuple[str, object]]) -> Iterator[str]:
    for name, value in values:
        yield f'<tr><th>{_text(name)}</th><td class="mono">{_text(_worded(value))}</td></tr>'


def _worded(value: object) -> object:
    match value:
        case None | bool():
            return _WORDS[value]
        case list() | tuple() | set() | frozenset():
            return ", ".join(map(str, value)) or "none"
        case _:
            return value


def _colour(status: str) -> str:
    return status if status in _COLOURED else "other"


def _text(value: object) -> str:
    return escape(shown_text(value))


def _with_code(text: str) -> str:
    """Escape a text, and show what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
