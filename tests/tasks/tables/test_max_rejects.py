"""Files of which too many records do not fit."""

from __future__ import annotations

from typing import Any

import pytest


def _text(good: int, bad: int) -> bytes:
    """Make a table with this many good and bad records, the bad ones last."""
    return b"a,b\n" + b"1,2\n" * good + b"1,\xff\n" * bad


@pytest.mark.parametrize(
    ("good", "bad", "limit", "failed"),
    [
        (0, 1, "5%", False),
        (2, 1, "5%", False),
        (2, 2, "5%", True),
        (95, 5, "5%", False),
        (94, 6, "5%", True),
        (94, 6, "6", False),
        (2, 1, "0", True),
        (0, 100, "100%", False),
    ],
)
def test_a_file_with_more_rejects_than_allowed_is_a_failed_item(
    ingest: Any, good: int, bad: int, limit: str, failed: bool
) -> None:
    """It is judged at its end: every reject is kept, committed and counted, and no row of it is."""
    done = ingest(_text(good, bad), max_rejects=limit)
    assert len(done.rejects) == done.row["rejected"] == bad
    assert done.row["rows_in"] == good + bad
    assert (done.row["status"], done.row["rows_out"]) == (("failed", 0) if failed else ("ok", good))
    kept = [done.row["rejects_path"]] if failed else sorted([done.row["path"], done.row["rejects_path"]])
    assert done.left_behind == kept


def test_the_sentence_has_both_figures_and_the_first_reject(ingest: Any) -> None:
    """A person sees the size of the loss and where to look first."""
    done = ingest(_text(996, 1004), max_rejects="5%")
    assert done.row["error_kind"] == "too_many_rejects"
    assert "1,004 of 2,000 records of " in done.row["error"]
    assert "(50.2%), and max_rejects allows 5%. The first: line 998: byte 0xff at position 2" in done.row["error"]


def test_a_table_of_an_earlier_content_goes(ingest: Any) -> None:
    """Rows of the old content beside rejects of the new one would be neither."""
    assert ingest(_text(3, 0), max_rejects="5%").left_behind
    done = ingest(_text(3, 3), max_rejects="5%")
    assert done.left_behind == [done.row["rejects_path"]]
