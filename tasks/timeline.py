"""The timeline of a run: which worker ran what, and when; as a Parquet file, as bars, as a Mermaid chart."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from prefect_fanout.tasks.ledger_files import GROUP_ROWS, write_file
from prefect_fanout.tasks.run_directory import RunDirectory, storage_failure

TIMELINE_FILE = "timeline.parquet"

MERMAID_BARS = 60
"""Most bars of the chart in Prefect's UI: with more of them it no longer fits a screen."""

SHORT_S = 10.0
"""Length in seconds below which the chart's ticks, about ten, stand closer than a second."""

# Colours that can be read on the dark field that the UI puts under a chart, and on a light one. A number that does not
# fit its bar would be drawn over the next one: it is transparent.
_MERMAID_HEAD = """\
---
displayMode: compact
config:
  theme: base
  themeVariables:
    textColor: "#8593a6"
    titleColor: "#8593a6"
    gridColor: "#8593a655"
    sectionBkgColor: "#8593a618"
    sectionBkgColor2: "#8593a618"
    altSectionBkgColor: "#8593a600"
    taskBkgColor: "#3a74c4"
    taskBorderColor: "#6b9fe8"
    taskTextColor: "#ffffff"
    taskTextOutsideColor: "#00000000"
  gantt:
    useWidth: 800
    leftPadding: 110
    rightPadding: 20
    fontSize: 12
    sectionFontSize: 12
---
gantt
    dateFormat x
    todayMarker off"""
_AXIS, _SHORT_AXIS = "%H:%M:%S", "%S.%L"

_TIME: pa.DataType = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("queued", _TIME, nullable=False),
        pa.field("started", _TIME, nullable=False),
        pa.field("ended", _TIME, nullable=False),
        pa.field("items", pa.int64(), nullable=False),
    ]
)


class Span(Protocol):
    """One task run on one worker, as `prefect_fanout.TimelineEntry`; times are seconds since the Unix epoch."""

    @property
    def name(self) -> str: ...  # noqa: D102 - the class says what they are
    @property
    def worker(self) -> str: ...  # noqa: D102 - as above
    @property
    def queued(self) -> float: ...  # noqa: D102 - as above
    @property
    def started(self) -> float: ...  # noqa: D102 - as above
    @property
    def ended(self) -> float: ...  # noqa: D102 - as above
    @property
    def items(self) -> int: ...  # noqa: D102 - as above


class Bar(NamedTuple):
    """A stretch of time in which a worker was busy: one task run, or neighbours that were joined."""

    name: str
    started: float
    ended: float
    items: int
    runs: int


class Lane(NamedTuple):
    """The bars of one worker, in order of time."""

    worker: str
    bars: list[Bar]


class Lanes(NamedTuple):
    """What is drawn of a timeline."""

    lanes: list[Lane]
    runs: int
    """Task runs in all, drawn or not."""
    hidden_workers: int
    """Workers that were left out, the least busy ones."""

    @property
    def short(self) -> bool:
        """Whether the chart's axis has to show milliseconds."""
        bars = [bar for lane in self.lanes for bar in lane.bars]
        return bool(bars) and max(bar.ended for bar in bars) - min(bar.started for bar in bars) < SHORT_S

    @property
    def joined(self) -> bool:
        """Whether a bar stands for more than one task run."""
        return any(bar.runs > 1 for lane in self.lanes for bar in lane.bars)


def lanes_of(timeline: Sequence[Span], *, most_bars: int, most_lanes: int) -> Lanes:
    """Reduce a timeline to what can be drawn.

    Each worker gets the same share of the bars. Where it has more task runs, neighbours are joined, those with the
    shortest pauses between them first: what is drawn as a pause was one.

    Args:
        timeline: in any order.
        most_bars: bars in all, at least 1.
        most_lanes: workers, at least 1.
    """
    workers: dict[str, list[Span]] = {}
    for span in timeline:
        workers.setdefault(span.worker, []).append(span)
    busiest = sorted(workers, key=lambda worker: -sum(span.ended - span.started for span in workers[worker]))
    shown = sorted(busiest[: min(most_bars, most_lanes)], key=_natural)
    share = most_bars // max(1, len(shown))
    lanes = [Lane(worker, _join(sorted(workers[worker], key=lambda span: span.started), share)) for worker in shown]
    return Lanes(lanes, len(timeline), len(workers) - len(shown))


def _join(spans: list[Span], most: int) -> list[Bar]:
    pauses = sorted(range(1, len(spans)), key=lambda at: spans[at - 1].ended - spans[at].started)  # longest first
    cuts = sorted(pauses[: most - 1])
    return [_bar(spans[begin:end]) for begin, end in pairwise([0, *cuts, len(spans)])]


def _bar(spans: list[Span]) -> Bar:
    first, last = spans[0].name, spans[-1].name
    return Bar(
        name=first if first == last else f"{first} to {last}",
        started=spans[0].started,
        ended=max(span.ended for span in spans),
        items=sum(span.items for span in spans),
        runs=len(spans),
    )


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts worker 2 before worker 10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text)]


def mermaid(lanes: Lanes) -> str:
    """Draw lanes as a Mermaid Gantt chart: a section is a worker, in one row, and the number on a bar is its items.

    Of the user's texts only the names of workers are in it, without the characters that mean something to Mermaid.
    """
    lines = [*_MERMAID_HEAD.splitlines(), f"    axisFormat {_SHORT_AXIS if lanes.short else _AXIS}"]
    for lane in lanes.lanes:
        lines.append(f"    section {_plain(lane.worker)}")
        for bar in lane.bars:
            begin = round(bar.started * 1000)
            end = max(begin + 1, round(bar.ended * 1000))  # a bar of no length is not drawn
            lines.append(f"    {bar.items:,} :{begin}, {end}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Keep what no grammar gives a meaning to: a colon, `#`, `;` and `%%` have one in a Gantt chart."""
    return re.sub(r"[^\w .()\[\]/+-]+", "-", text)[:40].strip() or "-"


def write_timeline(run: RunDirectory, timeline: Sequence[Span]) -> Path:
    """Write RUN/timeline.parquet: one row per task run, in order of their beginning.

    Raises:
        RunFailed: the disk refused.
    """
    final = run.path / TIMELINE_FILE
    try:
        write_file(final, _tables(sorted(timeline, key=lambda span: span.started)), SCHEMA, {})
    except OSError as error:
        raise storage_failure("The timeline", final, error) from error
    return final


def _tables(timeline: Sequence[Span]) -> Iterator[pa.Table]:
    for begin in range(0, len(timeline), GROUP_ROWS):
        rows = [
            {"name": span.name, "worker": span.worker, "items": span.items}
            | {name: _moment(getattr(span, name)) for name in ("queued", "started", "ended")}
            for span in timeline[begin : begin + GROUP_ROWS]
        ]
        yield pa.Table.from_pylist(rows, schema=SCHEMA)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
