"""The timeline: what is drawn of it, its axis, and its Parquet file."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.report import write_timeline
from prefect_fanout.tasks.run_directory import RunDirectory
from prefect_fanout.tasks.timeline import SHORT_S, lanes_of, mermaid
from servers.summaries import span, timeline


def test_sections_are_in_the_order_of_their_numbers() -> None:
    """Worker 2 comes before worker 10."""
    chart = mermaid(lanes_of(timeline(12, 12), most_bars=60, most_lanes=60))
    assert re.findall(r"section (\S+)", chart) == [f"download_{number}" for number in range(12)]


def test_joined_bars_keep_the_longest_pauses() -> None:
    """When bars are joined, what still is drawn as a pause is the longest ones, and no item is lost."""
    runs = [span(0, 0, 0, 1), span(1, 0, 1.1, 2), span(2, 0, 9, 10), span(3, 0, 10.2, 11), span(4, 0, 20, 21)]
    ((_, bars),) = lanes_of(list(reversed(runs)), most_bars=3, most_lanes=1).lanes
    assert [(bar.started, bar.ended, bar.items, bar.runs) for bar in bars] == [
        (0, 2, 20, 2),
        (9, 11, 20, 2),
        (20, 21, 10, 1),
    ]
    assert bars[0].name == "download[0:10] to download[1:11]"


def test_the_busiest_workers_are_drawn() -> None:
    """Where there are more workers than lanes, those that did least are left out."""
    runs = [span(number, number, 0, number + 1) for number in range(5)]
    drawn = lanes_of(runs, most_bars=10, most_lanes=2)
    assert [lane.worker for lane in drawn.lanes] == ["download_3", "download_4"]
    assert drawn.hidden_workers == 3


@pytest.mark.parametrize("runs", [0, 1, 2, 50])
def test_the_timeline_is_a_parquet_file(tmp_path: Path, runs: int) -> None:
    """timeline.parquet has a row per task run, in order of their beginning, with times in UTC."""
    entries = timeline(runs, 3)
    with RunDirectory.open(tmp_path / "run", pipeline="p") as run:
        table = pq.read_table(write_timeline(run, list(reversed(entries))))
    assert table.num_rows == runs
    assert table.column_names == ["name", "worker", "queued", "started", "ended", "items"]
    rows = table.to_pylist()
    assert [row["started"].timestamp() for row in rows] == sorted(entry.started for entry in entries)
    assert sum(row["items"] for row in rows) == 10 * runs


def test_a_timeline_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    """Where the timeline has no place the error says so, and no temporary file is left."""
    with RunDirectory.open(tmp_path, pipeline="p") as run:
        (tmp_path / "timeline.parquet").mkdir()
        with pytest.raises(RunFailed, match="The timeline could not be written"):
            write_timeline(run, [])
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize(
    ("seconds", "axis"), [(0.0, "%S.%L"), (0.3, "%S.%L"), (9.9, "%S.%L"), (SHORT_S, "%H:%M:%S"), (7200.0, "%H:%M:%S")]
)
def test_a_short_chart_shows_milliseconds(seconds: float, axis: str) -> None:
    """Where the ticks stand closer than a second, their labels differ."""
    runs = [span(0, 0, 1000.0, 1000.0 + seconds / 2), span(1, 1, 1000.0, 1000.0 + seconds)]
    lanes = lanes_of(runs, most_bars=60, most_lanes=60)
    assert re.findall("axisFormat (.*)", mermaid(lanes)) == [axis]
    assert lanes.short == (axis == "%S.%L")


def test_a_chart_of_nothing_is_no_short_one() -> None:
    """Without a bar there is no span of time, and nothing to tell apart."""
    assert not lanes_of([], most_bars=60, most_lanes=60).short
