"""The summary in Prefect's UI: right numbers, bounded size, and text that stays text."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from prefect import flow

from prefect_fanout import TimelineEntry
from prefect_fanout._text import TEXT_CHARS, shown_text
from prefect_fanout.tasks.advice import ADVICE, what_to_do
from prefect_fanout.tasks.report import Notice, publish_summary, summary_markdown
from prefect_fanout.tasks.summary import (
    EXAMPLES,
    bytes_text,
    item_text,
    number_text,
    seconds_text,
)
from prefect_fanout.tasks.timeline import MERMAID_BARS, lanes_of, mermaid
from servers.prefect_server import PrefectServer
from servers.summaries import HOSTILE, NOTHING, summary, tables, timeline


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
        figures={text: 3},
        notices=[Notice(title=text, text=text, columns=(text,), rows=[(text,)])],
        timeline=[entry],
    )
    markdown = summary_markdown(hostile)
    expected = " ".join(shown_text(text).split())
    cells = [[[" ".join(cell.split()) for cell in row] for row in table] for table in tables(markdown)]
    assert [len(table) for table in cells] == [2, 2, 2, 2, 2]
    assert cells[0] == [[expected], [expected]]
    assert cells[1][1] == [expected, "1"]
    assert cells[2][1] == [expected, "3"]
    assert cells[3][1][:2] == [expected, "1"]
    assert cells[4][1] == [expected, " ".join(f"{expected}: {expected}".split())]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    assert Counter(token.type for token in tokens)["fence"] == 1
    assert not {token.type for token in tokens} & {"html_block", "hr", "bullet_list_open", "blockquote_open"}
    (chart,) = [token.content for token in tokens if token.type == "fence"]
    *head, section, bar = chart.splitlines()
    assert head == mermaid(lanes_of(timeline(1, 1), most_bars=1, most_lanes=1)).splitlines()[:-2]
    assert re.fullmatch(r" {4}section [^:#;%<>]+", section)
    assert bar == "    1 :1000, 2000"


@given(st.text(st.characters(codec=None)))
def test_any_text_is_one_cell(text: str) -> None:
    """Whatever an item is called, its row has two cells, and they hold what is shown of it."""
    markdown = summary_markdown(summary(Path("run"), examples=[{"url": text, "error_kind": "x", "error": text}]))
    row = tables(markdown)[2][1]
    assert [cell.split() for cell in row] == [shown_text(text).split(), ["x:", *shown_text(text).split()]]


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
    assert [seconds_text(seconds) for seconds in (0, 0.0123, 0.1, 9.94, 59, 60, 3599, 3600, 90_000)] == [
        *("0 ms", "12 ms", "0.1 s", "9.9 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 00 min"),
    ]
    assert [number_text(count, "item") for count in (0, 1, 2, 1_000)] == ["0 items", "1 item", "2 items", "1,000 items"]
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
    assert artifact["description"] == "1,200 ok, 4 failed · Images \\| of \\<b\\>urls\\</b\\>"


def test_outside_a_run_nothing_is_published(tmp_path: Path) -> None:
    """A pipeline that is called as a plain function publishes nothing, and no warning is given."""
    publish_summary(summary(tmp_path), "Not A Key")


def test_a_summary_of_nothing_is_short(tmp_path: Path) -> None:
    """An empty list gives a page without empty sections."""
    text = summary_markdown(summary(tmp_path, **NOTHING))
    assert "##" not in text
    assert "mermaid" not in text
    assert "There was nothing to do: the list has no items." in text


def test_only_the_first_examples_are_shown(tmp_path: Path) -> None:
    """However many failures a flow passes, the page shows a bounded number of them."""
    rows = [{"url": f"item-{number}.", "error_kind": "dns", "error": "no"} for number in range(EXAMPLES + 1)]
    assert len(tables(summary_markdown(summary(tmp_path, examples=rows)))[2]) == 1 + EXAMPLES


@pytest.mark.parametrize(
    ("items", "skipped", "expected"),
    [
        (1, 0, "1 item took 12 s: **0.083 items/s**"),
        (2, 0, "2 items took 12 s: **0.17 items/s**"),
        (2, 1, "2 items. 1 was finished by an earlier run; 1 took 12 s"),
        (9, 2, "9 items. 2 were finished by an earlier run; 7 took 12 s"),
        (1, 1, "Nothing was left to do: the one item was finished by an earlier run."),
        (2_000, 2_000, "Nothing was left to do: all 2,000 items were finished by an earlier run."),
    ],
)
def test_the_first_sentence_says_what_this_run_did(tmp_path: Path, items: int, skipped: int, expected: str) -> None:
    """A rerun is told from a first run, and one with nothing left has no rate."""
    text = summary_markdown(summary(tmp_path, items=items, skipped=skipped))
    assert expected in text
    assert ("items/s" in text) == (items > skipped)


def test_statuses_have_their_order(tmp_path: Path) -> None:
    """What went well comes first and what failed later, however the ledger counted; other statuses come last."""
    counts = {"cancelled": 5, "failed": 4, "skipped": 3, "ok": 1, "duplicate": 2}
    rows = tables(summary_markdown(summary(tmp_path, counts=counts)))[0]
    assert rows[1:] == [["ok", "1"], ["duplicate", "2"], ["skipped", "3"], ["failed", "4"], ["cancelled", "5"]]


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_notices_come_first(tmp_path: Path, lines: int) -> None:
    """What a pipeline wants a person to see stands before the statuses, with its table where it has one."""
    rows = [(f"file|{number}.csv", 1_000 + number) for number in range(lines)]
    notice = Notice(title="1 of 2 *rows* set aside", text="They are in `rejects/`.", columns=("file", "n"), rows=rows)
    text = summary_markdown(summary(tmp_path, notices=[notice]))
    assert text.index("set aside") < text.index("| status")
    found = tables(text)
    assert len(found) == (4 if lines else 3)
    if lines:
        assert found[0] == [["file", "n"], *([name, f"{number:,}"] for name, number in rows)]


def test_figures_are_a_table(tmp_path: Path) -> None:
    """Whatever else a pipeline counts is shown under the name that it gives, in its order, zero too."""
    assert "What was counted" not in summary_markdown(summary(tmp_path))
    text = summary_markdown(summary(tmp_path, figures={"rows read": 12_000, "rows rejected": 0}))
    assert "## What was counted" in text
    assert tables(text)[1] == [["what", "number"], ["rows read", "12,000"], ["rows rejected", "0"]]
