"""From a list to items: what drops out before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefect_fanout.tasks.images.intake import BATCH_LINES, Intake
from prefect_fanout.tasks.images.row import KEY, SCHEMA, Item, failed, new_row
from prefect_fanout.tasks.images.seen import SeenUrls
from prefect_fanout.tasks.images.url_list import open_list
from prefect_fanout.tasks.ledger import Ledger, read_ledger
from prefect_fanout.tasks.run_directory import RunDirectory

URLS = [
    "http://example.org/a",
    "http://example.org/b",
    "HTTP://EXAMPLE.ORG:80/a#top",
    "no url",
    "no url",
    "http://me:secret@example.org/",
    "http://example.org/c",
    "http://example.org/a",
]


@contextmanager
def session(folder: Path, *, retry_failed: bool = False) -> Iterator[Intake]:
    """One run in a run directory."""
    with RunDirectory.open(folder, pipeline="test") as run, Ledger(run, SCHEMA, key=KEY) as ledger, SeenUrls() as seen:
        yield Intake(ledger, seen, retry_failed=retry_failed)


def finish(intake: Intake, item: Item, *, ok: bool = True) -> None:
    """Says what became of an item."""
    row = new_row(item.index, item.url, item.key)
    intake.note(row | {"status": "ok"} if ok else failed(row, "http_4xx", "no"))


def run(folder: Path, *, fail: str = "", retry_failed: bool = False) -> tuple[list[int], dict[str, int]]:
    """One run over URLS; gives the positions that were fetched and the counts."""
    with session(folder, retry_failed=retry_failed) as intake:
        fetched = []
        for item in intake.read(open_list(URLS)):
            fetched.append(item.index)
            finish(intake, item, ok=not item.url.endswith(fail) if fail else True)
        assert intake.items == len(URLS) == sum(intake.counts.values())
        return fetched, dict(intake.counts)


def test_bad_urls_and_duplicates_become_rows_at_once(tmp_path: Path) -> None:
    """Every entry has its row: fetched ones, invalid ones, and duplicates that name the first."""
    fetched, counts = run(tmp_path)
    assert fetched == [0, 1, 6]
    assert counts == {"ok": 3, "duplicate": 2, "failed": 3}
    ledger = read_ledger(tmp_path)
    assert list(ledger["index"]) == list(range(len(URLS)))
    assert list(ledger["status"]) == ["ok", "ok", "duplicate", "failed", "failed", "failed", "ok", "duplicate"]
    assert list(ledger["duplicate_of"].dropna()) == [0, 0]
    assert set(ledger["error_kind"].dropna()) == {"invalid_url"}
    assert "secret" not in " ".join(map(str, ledger.to_numpy().ravel()))


def test_a_duplicate_of_an_item_in_flight_is_known(tmp_path: Path) -> None:
    """The second of two equal URLs is a duplicate before the first is finished."""
    with session(tmp_path) as intake:
        items = list(intake.read(open_list(URLS[:3])))
        assert [item.index for item in items] == [0, 1]
        assert intake.counts == {"duplicate": 1}
        for item in items:
            finish(intake, item)


def test_a_second_run_skips_everything(tmp_path: Path) -> None:
    """A rerun fetches nothing, writes no row, and counts every entry as skipped."""
    run(tmp_path)
    assert run(tmp_path) == ([], {"skipped": len(URLS)})
    assert len(read_ledger(tmp_path)) == len(URLS)


@pytest.mark.parametrize(("retry_failed", "expected"), [(False, []), (True, [1])])
def test_failed_items_are_repeated_on_request(tmp_path: Path, retry_failed: bool, expected: list[int]) -> None:
    """What failed is fetched again only with retry_failed; its newer row replaces the old one."""
    run(tmp_path, fail="b")
    fetched, _ = run(tmp_path, retry_failed=retry_failed)
    assert fetched == expected
    ledger = read_ledger(tmp_path)
    assert ledger["status"].iloc[1] == ("ok" if retry_failed else "failed")
    assert len(ledger) == len(URLS)


def test_a_longer_list_fetches_only_what_is_new(tmp_path: Path) -> None:
    """A list that grew is continued, and its finished items stay."""
    run(tmp_path)
    with session(tmp_path) as intake:
        items = list(intake.read(open_list([*URLS, "http://example.org/new"])))
        assert [item.url for item in items] == ["http://example.org/new"]


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_first_positions(count: int) -> None:
    """The position of the first of equal URLs is remembered, for any number of URLs."""
    with SeenUrls() as seen:
        urls = [f"http://example.org/{position}" for position in range(count)]
        assert seen.first(urls, 0) == {}
        assert seen.first(urls, count) == {position: position for position in range(count)}


def test_first_positions_within_a_batch() -> None:
    """Equal URLs of one batch point to the first of them, and those of a later one too."""
    with SeenUrls() as seen:
        assert seen.first(["a", "b", "a", "a", "b"], 10) == {2: 10, 3: 10, 4: 11}
        assert seen.first(["c", "b"], 15) == {1: 11}


@pytest.mark.parametrize("count", [BATCH_LINES - 1, BATCH_LINES, BATCH_LINES + 1, 3 * BATCH_LINES])
def test_lists_around_the_size_of_a_batch(tmp_path: Path, count: int) -> None:
    """Where one batch ends makes no difference: positions go on, and duplicates are found across."""
    urls = [f"http://example.org/{position % BATCH_LINES}" for position in range(count)]
    with session(tmp_path) as intake:
        items = list(intake.read(open_list(urls)))
        assert [item.index for item in items] == list(range(min(count, BATCH_LINES)))
        assert intake.counts["duplicate"] == count - len(items)
        for item in items:
            finish(intake, item)
    ledger = read_ledger(tmp_path)
    assert list(ledger["duplicate_of"].dropna()) == list(range(count - len(items)))[:BATCH_LINES] * (
        2 if count == 3 * BATCH_LINES else 1
    )
