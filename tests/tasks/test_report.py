"""report.html: right numbers, bounded size, and text that stays text."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_fanout import TimelineEntry
from prefect_fanout._errors import RunFailed
from prefect_fanout._text import shown_text
from prefect_fanout.tasks.advice import ADVICE
from prefect_fanout.tasks.report import Notice, RunSummary, write_report
from prefect_fanout.tasks.report_chart import BUCKETS, busy_share, chart, throughput
from prefect_fanout.tasks.summary import EXAMPLES
from prefect_fanout.tasks.timeline import Span, lanes_of
from servers.summaries import HOSTILE, NOTHING, span, summary


class Page(HTMLParser):
    """What a browser makes of a page: its tags, its attributes and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def page(summary: RunSummary) -> Page:
    """Write a report and read it."""
    path = summary.run / "report.html"
    write_report(summary, path)
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_the_report(tmp_path: Path, text: str) -> None:
    """No text of the user adds a tag or an attribute to report.html, and all of it can be read there."""
    entry = TimelineEntry(name=text, worker=text, queued=1.0, started=1.0, ended=2.0, items=1)

    def with_text(text: str, worker: TimelineEntry) -> Page:
        row = {"url": text, "error_kind": text, "error": text}
        changes: dict[str, Any] = {"title": text, "pipeline": text, "counts": {text: 1}, "failures": {text: 1}}
        changes |= {"options": {text: text}, "versions": {text: text}, "timeline": [worker], "examples": [row]}
        changes |= {"figures": {text: 3}, "notices": [Notice(title=text, text=text, columns=(text,), rows=[(text,)])]}
        return page(summary(tmp_path, **changes))

    hostile, harmless = with_text(text, entry), with_text("harmless", dataclasses.replace(entry, name="harmless"))
    assert hostile.tags == harmless.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in harmless.attributes]
    assert shown_text(text) in hostile.text


def test_the_report_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """report.html has no script and names no other file; its policy forbids every request."""
    found = page(summary(tmp_path))
    assert not set(found.tags) & {"script", "link", "img", "iframe", "object", "a", "form", "base"}
    assert not {name for name, _ in found.attributes} & {"src", "href", "srcset", "action", "onclick", "onload"}
    html = (tmp_path / "report.html").read_text()
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html


def test_the_report_has_the_numbers_the_advice_and_the_examples(tmp_path: Path) -> None:
    """A person finds how many, what failed, what to do, an example, the workers, the files, options and versions."""
    (tmp_path / "ledger.parquet").touch()
    (tmp_path / "images").mkdir()
    options = {"workers": 16, "max_failed": None, "retry_failed": False, "formats": ["PNG", "GIF"], "ratio": 1}
    text = page(summary(tmp_path, options=options)).text
    for words in (
        *("4 of 1,204 items failed (0.3%)", "1,200", "12 s", "100 items/s", "3.0 MB", "4 done by an earlier run"),
        *("http_4xx", ADVICE["http_4xx"], "1 of 3", "https://x.org/3.jpg", "The server answered 404."),
        *("2 workers, 6 task runs", "download_1", "Items per second", "one row per item", "the images"),
        *("16", "not set", "no", "PNG, GIF", "prefect", "python"),
    ):
        assert words in text, words
    assert "the tables" not in text
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({"ok": 1}, "The one item is done."),
        ({"ok": 1_500, "duplicate": 1}, "All 1,501 items are accounted for, and none failed."),
        ({"failed": 1}, "1 of 1 items failed (100%)"),
        ({"ok": 99_999, "failed": 1}, "1 of 100,000 items failed (less than 0.1%)"),
        ({"ok": 2, "failed": 1}, "1 of 3 items failed (33%)"),
    ],
)
def test_the_report_begins_with_a_verdict(tmp_path: Path, counts: dict[str, int], verdict: str) -> None:
    """The first sentence says whether all is well."""
    assert verdict in page(summary(tmp_path, counts=counts)).text


def test_a_report_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    """Where the report has no place the error says so, and no temporary file is left."""
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunFailed, match="The report could not be written"):
        write_report(summary(tmp_path), tmp_path / "report.html")
    with pytest.raises(RunFailed, match="The report could not be written"):
        write_report(summary(tmp_path), tmp_path / "gone" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


spans = st.builds(
    lambda worker, started, length, items: span(0, worker, started, started + length, items),
    st.integers(0, 5),
    st.floats(1e9, 1e9 + 1e4),
    st.floats(0, 1e3),
    st.integers(0, 10_000),
)


@given(st.lists(spans, min_size=1))
def test_the_throughput_curve_keeps_every_item(runs: list[Span]) -> None:
    """The area under the curve is the number of items, however task runs overlap."""
    begin = min(run.started for run in runs)
    seconds = max(1e-3, max(run.ended for run in runs) - begin)
    rates = throughput(runs, begin, seconds)
    assert len(rates) == BUCKETS
    assert min(rates) >= 0
    assert sum(rates) * seconds / BUCKETS == pytest.approx(sum(run.items for run in runs), rel=1e-4, abs=0.01)


def test_the_share_of_busy_time() -> None:
    """Two workers, one of which rests half of the time, are busy for three quarters of it."""
    assert busy_share([]) == 0
    assert busy_share([span(0, 0, 5, 5)]) == 1
    assert busy_share([span(0, 0, 0, 10), span(1, 1, 5, 10)]) == 0.75


def test_a_report_of_nothing_is_short(tmp_path: Path) -> None:
    """An empty list gives a page that says so."""
    text = page(summary(tmp_path, **NOTHING)).text
    assert "There was nothing to do: the list has no items." in text
    assert not [words for words in ("Throughput", "Failures", "Workers", "What was counted") if words in text]


def test_only_the_first_examples_are_shown(tmp_path: Path) -> None:
    """However many failures a flow passes, the report shows a bounded number of them."""
    rows = [{"url": f"item-{number}.", "error_kind": "dns", "error": "no"} for number in range(EXAMPLES + 1)]
    text = page(summary(tmp_path, examples=rows, failures={"dns": 500})).text
    assert f"{EXAMPLES} of 500" in text
    assert f"item-{EXAMPLES - 1}." in text
    assert f"item-{EXAMPLES}." not in text


@pytest.mark.parametrize("failures", [0, 1])
def test_a_rerun_with_nothing_left_says_so(tmp_path: Path, failures: int) -> None:
    """It has no throughput, and how many failed is still there."""
    counts = {"ok": 9, "failed": failures}
    text = page(summary(tmp_path, counts=counts, items=9 + failures, skipped=9 + failures, timeline=[])).text
    assert f"Nothing was left to do: all {9 + failures} items were finished by an earlier run." in text
    assert "items/s" not in text
    assert ("1 of 10 items failed" in text) == bool(failures)


def test_the_report_has_notices_and_figures(tmp_path: Path) -> None:
    """They stand between the verdict and the failures, in this order."""
    notice = Notice(title="3 rows set aside", text="See there.", columns=("file", "n"), rows=[("a&b.csv", 2_000)])
    text = page(summary(tmp_path, notices=[notice], figures={"rows read": 12_345})).text
    words = ["failed (", "3 rows set aside", "See there.", "a&b.csv", "2,000", "rows read", "12,345", "Failures"]
    assert sorted(words, key=text.index) == words


@pytest.mark.parametrize(
    ("seconds", "first", "second"),
    [
        (0.004, "0.0 ms", "0.5 ms"),
        (0.3, "0 ms", "50 ms"),
        (0.9, "0.0 s", "0.2 s"),
        (9.0, "0 s", "2 s"),
        (60.0, "0 s", "10 s"),
        (600.0, "0 min", "2 min"),
    ],
)
def test_the_axis_counts_in_a_unit_that_tells_its_ticks_apart(seconds: float, first: str, second: str) -> None:
    """However short the run, no two ticks have the same label."""
    runs = [span(0, 0, 1.7e9, 1.7e9 + seconds)]
    ticks = re.findall(r'class="tick"[^>]*>([^<]*)<', chart(lanes_of(runs, most_bars=1, most_lanes=1), runs))
    assert ticks[:2] == [first, second]
    assert len(set(ticks)) == len(ticks) > 3
