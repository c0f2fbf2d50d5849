"""The summary, the timeline and report.html: right numbers, bounded size, and text that stays text."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prefect import flow

from prefect_fanout import TimelineEntry
from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.advice import ADVICE, what_to_do
from prefect_fanout.tasks.report import RunSummary, publish_summary, summary_markdown, write_report, write_timeline
from prefect_fanout.tasks.report_chart import BUCKETS, busy_share, throughput
from prefect_fanout.tasks.run_directory import RunDirectory
from prefect_fanout.tasks.summary import EXAMPLES, TEXT_CHARS, bytes_text, item_text, seconds_text, shown_text
from prefect_fanout.tasks.timeline import MERMAID_BARS, Span, lanes_of, mermaid
from servers.prefect_server import PrefectServer

HOSTILE = [
    "https://x.org/a|b|c",
    "a\nb\r\n| --- |\n# heading",
    "`code` ```mermaid",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[link](javascript:alert(1)) ![image](http://evil/x.png)",
    "https://evil.example www.evil.example me@evil.example",
    "**bold** _it_ ~~no~~ \\| &lt; &#60;",
    "\u202egnp.exe \x00 \x1b[31m \udcff \u2028",
    "</title></style></svg><style>*{display:none}</style>",
    "x" * 10_000,
]


def span(number: int, worker: int, started: float, ended: float, items: int = 10) -> TimelineEntry:
    """Make one task run."""
    name = f"download[{number}:{number + items}]"
    return TimelineEntry(
        name=name, worker=f"download_{worker}", queued=started - 1, started=started, ended=ended, items=items
    )


def timeline(runs: int, workers: int) -> list[TimelineEntry]:
    """Make task runs of a second each, one after the other on each worker."""
    return [
        span(number, number % workers, begin := 1.7e9 + number // workers, begin + 1 - 0.001 * (number % 7))
        for number in range(runs)
    ]


def summary(run: Path, **changes: Any) -> RunSummary:
    """Make a summary with some of everything."""
    usual = RunSummary(
        title="Images of urls.txt",
        pipeline="download-images",
        run=run,
        counts={"ok": 1_200, "failed": 4},
        failures={"http_4xx": 3, "dns": 1},
        seconds=12.0,
        bytes_read=3_000_000,
        items=1_204,
        skipped=4,
        timeline=timeline(6, 2),
        examples=[
            {"index": 3, "url": "https://x.org/3.jpg", "error_kind": "http_4xx", "error": "The server answered 404."},
            {"index": 9, "url": "https://x.org/9.jpg", "error_kind": "dns", "error": "No such host."},
        ],
    )
    return dataclasses.replace(usual, **changes)


def tables(markdown: str) -> list[list[list[str]]]:
    """Give the text of the cells of all tables, as a reader of GitHub's Markdown sees them."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 3:
            for child in token.children or []:
                assert child.type in ("text", "text_special", "code_inline"), child
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


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


def test_the_summary_has_counts_failures_and_throughput(tmp_path: Path) -> None:
    """The page in the UI says how many, how fast, what failed, why, and what to do."""
    text = summary_markdown(summary(tmp_path))
    assert "1,204 items. 4 were finished by an earlier run; 1,200 took 12 s: **100 items/s**, 3.0 MB read" in text
    counts, failures, examples = tables(text)
    assert counts == [["status", "items"], ["ok", "1,200"], ["failed", "4"]]
    assert [row[:2] for row in failures] == [["kind", "items"], ["http_4xx", "3"], ["dns", "1"]]
    assert failures[2][2] == ADVICE["dns"]
    assert examples[1] == ["https://x.org/3.jpg", "http_4xx: The server answered 404."]
    assert "```mermaid\n---\ndisplayMode: compact\n" in text


def test_a_summary_of_nothing_is_short(tmp_path: Path) -> None:
    """An empty list gives a page without empty sections."""
    empty = summary(
        tmp_path, counts={}, failures={}, seconds=0.0, bytes_read=0, items=0, skipped=0, timeline=[], examples=[]
    )
    text = summary_markdown(empty)
    assert "##" not in text
    assert "mermaid" not in text
    assert "nothing to do" in page(empty).text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_the_summary(tmp_path: Path, text: str) -> None:
    """No item, error, kind, title or worker name can end a table, hide a link or bring HTML."""
    entry = TimelineEntry(name=text, worker=text, queued=1.0, started=1.0, ended=2.0, items=1)
    hostile = summary(
        tmp_path,
        title=text,
        counts={text: 1},
        failures={text: 1},
        examples=[{"url": text, "error_kind": text, "error": text}],
        timeline=[entry],
    )
    markdown = summary_markdown(hostile)
    expected = " ".join(shown_text(text).split())
    cells = [[[" ".join(cell.split()) for cell in row] for row in table] for table in tables(markdown)]
    assert [len(table) for table in cells] == [2, 2, 2]
    assert cells[0][1] == [expected, "1"]
    assert cells[1][1][:2] == [expected, "1"]
    assert cells[2][1] == [expected, " ".join(f"{expected}: {expected}".split())]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    assert Counter(token.type for token in tokens)["fence"] == 1
    assert not {token.type for token in tokens} & {"html_block", "hr", "bullet_list_open", "blockquote_open"}
    (chart,) = [token.content for token in tokens if token.type == "fence"]
    *head, section, bar = chart.splitlines()
    assert head == mermaid(lanes_of([], most_bars=1, most_lanes=1)).splitlines()
    assert re.fullmatch(r" {4}section [^:#;%<>]+", section)
    assert bar == "    1 :1000, 2000"


@given(st.text(st.characters(codec=None)))
def test_any_text_is_one_cell(text: str) -> None:
    """Whatever an item is called, its row has two cells, and they hold what is shown of it."""
    markdown = summary_markdown(summary(Path("run"), examples=[{"url": text, "error_kind": "x", "error": text}]))
    row = tables(markdown)[2][1]
    assert [cell.split() for cell in row] == [shown_text(text).split(), ["x:", *shown_text(text).split()]]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_the_report(tmp_path: Path, text: str) -> None:
    """No text of the user adds a tag or an attribute to report.html, and all of it can be read there."""
    entry = TimelineEntry(name=text, worker=text, queued=1.0, started=1.0, ended=2.0, items=1)

    def with_text(text: str, worker: TimelineEntry) -> Page:
        row = {"url": text, "error_kind": text, "error": text}
        changes: dict[str, Any] = {"title": text, "pipeline": text, "counts": {text: 1}, "failures": {text: 1}}
        changes |= {"options": {text: text}, "versions": {text: text}, "timeline": [worker], "examples": [row]}
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


def test_only_the_first_examples_are_shown(tmp_path: Path) -> None:
    """However many failures a flow passes, the page and the report show a bounded number of them."""
    rows = [{"url": f"item-{number}.", "error_kind": "dns", "error": "no"} for number in range(EXAMPLES + 1)]
    many = summary(tmp_path, examples=rows, failures={"dns": 500})
    assert len(tables(summary_markdown(many))[2]) == 1 + EXAMPLES
    text = page(many).text
    assert f"{EXAMPLES} of 500" in text
    assert f"item-{EXAMPLES - 1}." in text
    assert f"item-{EXAMPLES}." not in text


@pytest.mark.parametrize(
    ("runs", "workers", "joined"),
    [(1, 1, False), (2, 1, False), (60, 1, False), (61, 1, True), (600, 7, True), (60, 60, False), (61, 61, False)],
)
def test_the_chart_in_the_ui_is_bounded(tmp_path: Path, runs: int, workers: int, joined: bool) -> None:
    """The Gantt chart has at most its bars, says what was joined or left out, and each worker is a section."""
    text = summary_markdown(summary(tmp_path, timeline=timeline(runs, workers)))
    chart = text.split("```mermaid\n")[1].split("```")[0].splitlines()
    bars = [line for line in chart if re.match(r"    [\d,]+ :", line)]
    sections = [line for line in chart if line.startswith("    section ")]
    assert 1 <= len(bars) <= MERMAID_BARS
    assert len(sections) == min(workers, MERMAID_BARS)
    assert ("neighbours are joined" in text) == joined
    assert ("left out" in text) == (workers > MERMAID_BARS)
    if workers <= MERMAID_BARS:
        assert sum(int(line.split()[0]) for line in bars) == 10 * runs


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


def test_advice_is_found_by_kind_by_family_and_by_pipeline() -> None:
    """A kind has its own advice or that of its family; the pipeline's word comes first; nothing is left without."""
    assert what_to_do("tls_expired") == ADVICE["tls"]
    assert what_to_do("http_4xx") == ADVICE["http_4xx"]
    assert what_to_do("http_4xx", {"http": "mine"}) == "mine"
    assert "column `error`" in what_to_do("never heard of")


def test_texts_for_a_person() -> None:
    """Numbers of bytes and seconds are written as people write them, items by their most telling column."""
    assert [bytes_text(count) for count in (0, 999, 1000, 123_456, 2.5e9, 1e16)] == [
        *("0 B", "999 B", "1.0 kB", "123 kB", "2.5 GB", "10000 TB"),
    ]
    assert [seconds_text(seconds) for seconds in (0, 9.94, 59, 60, 3599, 3600, 90_000)] == [
        *("0.0 s", "9.9 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 00 min"),
    ]
    assert item_text({"index": 1, "url_key": "k", "url": "u"}) == "u"
    assert item_text({"index": 1, "source_key": "k", "url": None}) == "k"
    assert item_text({"index": 1}) == "1"
    assert item_text({}) == ""
    assert len(shown_text("x" * 1_000)) == TEXT_CHARS


def test_the_summary_is_published_on_the_page_of_the_run(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """In a flow the summary becomes a markdown artifact of that run."""
    hostile = summary(tmp_path, title="Images | of <b>urls</b>")

    @flow
    def work() -> str:
        from prefect.runtime import flow_run

        publish_summary(hostile, "test-publish-summary")
        return str(flow_run.id)

    run_id = work()
    response = httpx.get(f"{prefect_server.api_url}/artifacts/test-publish-summary/latest")
    artifact = response.raise_for_status().json()
    assert artifact["flow_run_id"] == run_id
    assert artifact["type"] == "markdown"
    assert artifact["data"] == summary_markdown(hostile)


def test_outside_a_run_nothing_is_published(tmp_path: Path) -> None:
    """A pipeline that is called as a plain function publishes nothing, and no warning is given."""
    publish_summary(summary(tmp_path), "Not A Key")
