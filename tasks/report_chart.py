"""The charts of report.html: throughput above the worker timeline, on one time axis, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from prefect_fanout._text import shown_text
from prefect_fanout.tasks.summary import rate_text, seconds_text
from prefect_fanout.tasks.timeline import Lanes, Span

BARS = 2_000
"""Most bars of the timeline: a page of this many is still quick to open, and a bar is about a pixel wide."""

LANES = 64
"""Most workers of the timeline: more of them no longer fit a screen, and look the same."""

BUCKETS = 150
"""Steps of the throughput curve: about one per five pixels."""

_WIDTH, _LEFT, _RIGHT = 1000.0, 130.0, 14.0
_CURVE_TOP, _CURVE_HEIGHT = 22.0, 92.0
_LANE_HEIGHT, _LANE_STEP = 15.0, 21.0
_TICKS = 8
_DAY_S = 86_400
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, _DAY_S)


def chart(lanes: Lanes, timeline: Sequence[Span]) -> str:
    """Draw the timeline and, above it, items per second.

    Args:
        lanes: what to draw of the timeline; not empty.
        timeline: all of it, for the throughput.
    """
    begin = min(span.started for span in timeline)
    seconds = max(max(span.ended for span in timeline) - begin, 1e-3)
    lanes_top = _CURVE_TOP + _CURVE_HEIGHT + 34
    height = lanes_top + _LANE_STEP * len(lanes.lanes) + 24
    parts = [
        f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="Throughput and worker timeline">',
        *_axis(seconds, lanes_top + _LANE_STEP * len(lanes.lanes)),
        *_throughput(timeline, begin, seconds),
        f'<text class="caption" x="{_LEFT:g}" y="{lanes_top - 9:g}">Workers</text>',
        *_lanes(lanes, begin, seconds, lanes_top),
        "</svg>",
    ]
    return "\n".join(parts)


def busy_share(timeline: Sequence[Span]) -> float:
    """Give the share of the workers' time in which they worked, from the first task run to the last, from 0 to 1."""
    if not timeline:
        return 0.0
    elapsed = max(span.ended for span in timeline) - min(span.started for span in timeline)
    workers = len({span.worker for span in timeline})
    return min(1.0, sum(span.ended - span.started for span in timeline) / (elapsed * workers)) if elapsed > 0 else 1.0


def throughput(timeline: Sequence[Span], begin: float, seconds: float) -> list[float]:
    """Give items per second in each of `BUCKETS` equal steps; the items of a task run are spread over its time.

    Args:
        timeline: in any order.
        begin: where the first step begins, in seconds since the epoch.
        seconds: length of all steps together.
    """
    # Sums of differences, so that a task run costs the same however many steps it spans: `slope` begins and ends a
    # rate, and the two steps in which it does so get their part.
    step = seconds / BUCKETS
    items = [0.0] * (BUCKETS + 1)
    slope = [0.0] * (BUCKETS + 2)
    for span in timeline:
        first, last = (span.started - begin) / step, (span.ended - begin) / step
        low, high = min(BUCKETS - 1, int(first)), min(BUCKETS - 1, int(last))
        if low == high:
            items[low] += span.items
            continue
        per_step = span.items / (last - first)
        items[low] += per_step * (low + 1 - first)
        items[high] += per_step * (last - high)
        slope[low + 1] += per_step
        slope[high] -= per_step
    rate = 0.0
    for number in range(BUCKETS):
        rate += slope[number]
        items[number] += max(0.0, rate)
    return [count / step for count in items[:BUCKETS]]


def _x(seconds: float, all_seconds: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / all_seconds


def _axis(seconds: float, bottom: float) -> Iterator[str]:
    step = _nice(seconds / _TICKS)
    for number in range(int(seconds / step) + 1):
        at = _x(number * step, seconds)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_CURVE_TOP:g}" y2="{bottom:g}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{bottom + 16:g}">{_tick(number * step, step)}</text>'


def _throughput(timeline: Sequence[Span], begin: float, seconds: float) -> Iterator[str]:
    rates = throughput(timeline, begin, seconds)
    top = max(rates) or 1.0
    floor = _CURVE_TOP + _CURVE_HEIGHT
    points = [
        f"{_x((number + 0.5) * seconds / BUCKETS, seconds):.1f},{floor - _CURVE_HEIGHT * rate / top:.1f}"
        for number, rate in enumerate(rates)
    ]
    yield f'<text class="caption" x="{_LEFT:g}" y="{_CURVE_TOP - 8:g}">Items per second</text>'
    yield f'<text class="name" x="{_LEFT - 10:g}" y="{_CURVE_TOP + 8:g}">{rate_text(top)}</text>'
    yield f'<text class="name" x="{_LEFT - 10:g}" y="{floor:g}">0</text>'
    left, right = _x(0.5 * seconds / BUCKETS, seconds), _x((BUCKETS - 0.5) * seconds / BUCKETS, seconds)
    yield f'<polygon class="area" points="{left:.1f},{floor:g} {" ".join(points)} {right:.1f},{floor:g}"/>'
    yield f'<polyline class="curve" points="{" ".join(points)}"/>'


def _lanes(lanes: Lanes, begin: float, seconds: float, top: float) -> Iterator[str]:
    for number, lane in enumerate(lanes.lanes):
        y = top + number * _LANE_STEP
        name = escape(shown_text(lane.worker, 18))
        yield f'<text class="name" x="{_LEFT - 10:g}" y="{y + 11.5:g}">{name}</text>'
        width = _WIDTH - _LEFT - _RIGHT
        yield f'<rect class="lane" x="{_LEFT:g}" y="{y:g}" width="{width:g}" height="{_LANE_HEIGHT:g}" rx="3"/>'
        for bar in lane.bars:
            x = _x(bar.started - begin, seconds)
            wide = max(1.0, _x(bar.ended - begin, seconds) - x)
            runs = f"{bar.runs:,} task runs, " if bar.runs > 1 else ""
            title = f"{shown_text(bar.name, 120)}: {runs}{bar.items:,} items in {seconds_text(bar.ended - bar.started)}"
            yield (
                f'<rect class="bar" x="{x:.1f}" y="{y:g}" width="{wide:.1f}" height="{_LANE_HEIGHT:g}" rx="2">'
                f"<title>{escape(title)}</title></rect>"
            )


def _nice(step: float) -> float:
    """Round a step of the time axis up to one that a person counts in."""
    if step < 1:
        power = 10.0 ** math.floor(math.log10(step))
        return next((power * times for times in (1, 2, 5) if step <= power * times), 10 * power)
    return next((nice for nice in _STEPS_S if step <= nice), _DAY_S * math.ceil(step / _DAY_S))


def _tick(seconds: float, step: float) -> str:
    if step < 0.1:
        return f"{1000 * seconds:.{max(0, -3 - math.floor(math.log10(step)))}f} ms"
    if step < 1:
        return f"{seconds:.{-math.floor(math.log10(step))}f} s"
    if step < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h" if step >= 900 else f"{minutes} min"
