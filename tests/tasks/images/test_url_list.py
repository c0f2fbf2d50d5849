"""Reading lists of URLs in every form, with bad lines in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.images.url_list import MAX_LINE_CHARACTERS, Line, open_list

URLS = [f"http://example.org/{row}" for row in range(5_000)]
A, B = "http://example.org/a,b.jpg", "http://example.org/c d.jpg"


def texts(path: Path, column: str = "url") -> list[str]:
    """The texts of all entries."""
    return [line.text for line in open_list(path, column=column)]


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_list_in_memory(count: int) -> None:
    """A Python list is read as it is."""
    urls = [f"http://example.org/{number}" for number in range(count)]
    found = open_list(urls)
    assert [line.text for line in found] == urls
    assert found.expected == count


def test_values_that_are_not_text_are_bad_entries() -> None:
    """A null or a number in a list is one bad entry."""
    problems = [line.problem for line in open_list([A, None, 5])]  # type: ignore[list-item] # what users do
    assert problems[0] is None
    assert "NoneType" in str(problems[1])
    assert "int" in str(problems[2])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_txt(tmp_path: Path, end: str, encoding: str) -> None:
    """One URL per line: commas, blanks, empty lines, a byte order mark and any line end are fine."""
    path = tmp_path / "list.txt"
    path.write_bytes(end.join([A, "", f" {B} ", "http://example.org/\u00e9"]).encode(encoding))
    assert texts(path) == [A, B, "http://example.org/\u00e9"]


def test_bytes_that_are_not_utf8_spoil_one_line(tmp_path: Path) -> None:
    """A line in another encoding is read with a mark in it, the others are not touched."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"http://example.org/\xe9\n" + A.encode())
    assert texts(path) == ["http://example.org/\ufffd", A]


@pytest.mark.parametrize("extra", [-1, 0, 1, MAX_LINE_CHARACTERS, 5 * MAX_LINE_CHARACTERS])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_line_that_is_too_long_is_one_bad_entry(tmp_path: Path, extra: int, suffix: str) -> None:
    """Lines are read up to a limit; the rest of a longer one is skipped, and the next line is whole."""
    path = tmp_path / f"list.{suffix}"
    long, after = "x" * (MAX_LINE_CHARACTERS + extra - 1), A if suffix == "txt" else json.dumps(A)
    path.write_text(f"{long}\n{after}\n")
    first, second = open_list(path)
    assert (first.problem is None) == (extra <= 0 and suffix == "txt")
    assert second == Line(A)


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv(tmp_path: Path, suffix: str, delimiter: str) -> None:
    """The column is found by name, quoted values are unquoted, short rows are bad entries, empty lines are none."""
    path = tmp_path / f"list.{suffix}"
    rows = [["id", " url"], ["1", f'"{A}"'], [], ["2"], ["3", f'"{B}"', "more"], ["4", ""]]
    path.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    lines = list(open_list(path))
    assert [line.text for line in lines] == [A, "", B, ""]
    assert [line.problem is None for line in lines] == [True, False, True, True]


def test_a_quotation_mark_that_is_never_closed(tmp_path: Path) -> None:
    """It swallows no more than the limit: after that the list goes on."""
    path = tmp_path / "list.csv"
    path.write_text('url\n"http://example.org/a\n' + (A.replace(",", "") + "\n") * 20_000)
    lines = list(open_list(path))
    assert "quotation mark" in str(lines[0].problem)
    assert len([line for line in lines if line.text == A.replace(",", "")]) > 10_000


def test_jsonl(tmp_path: Path) -> None:
    """Objects and plain strings are read; everything else is a bad entry."""
    path = tmp_path / "list.jsonl"
    lines = [json.dumps({"url": A}), json.dumps(B), "", "{broken", "{}", "[1]", '{"url": null}', "[" * 100_000]
    path.write_text("\n".join(lines))
    found = list(open_list(path))
    assert [line.text for line in found[:2]] == [A, B]
    assert len(found) == 7
    assert all(line.problem for line in found[2:])


@pytest.mark.parametrize("dtype", ["object", "str", pd.CategoricalDtype(URLS)], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 5_000])
def test_parquet(tmp_path: Path, dtype: Any, rows: int) -> None:
    """A text column is read in batches; a null is a bad entry."""
    path = tmp_path / "list.parquet"
    values = URLS[:rows]
    pd.DataFrame({"link": pd.Series([*values, None], dtype=dtype)}).to_parquet(path)
    found = open_list(path, column="link")
    assert found.expected == rows + 1
    lines = list(found)
    assert [line.text for line in lines[:-1]] == values
    assert lines[-1].problem is not None


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("list.txt", None, "cannot be read"),
        ("list.parquet", None, "cannot be read"),
        ("list.parquet", b"no parquet", "as Parquet"),
        ("list.xlsx", b"", "ends in .txt"),
        ("list", b"", "ends in .txt"),
        ("list.csv", b"", "is empty"),
        ("list.csv", b"id,link\n", "no column 'url', but 'id', 'link'"),
        ("list.csv", b'"' + b"x" * 200_000, "no column"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | None, text: str) -> None:
    """A list that is missing, of another kind, or without the column is refused before anything begins."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=text):
        open_list(path)


def test_a_folder_is_not_a_list(tmp_path: Path) -> None:
    """A folder named like a list is refused."""
    (tmp_path / "list.txt").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        open_list(tmp_path / "list.txt")


def test_a_single_url_is_not_a_list() -> None:
    """A URL where a path is expected gets its own advice."""
    with pytest.raises(UsageError, match="Put it in a list"):
        open_list("http://example.org/a.jpg")


@pytest.mark.parametrize(("frame", "text"), [({"x": ["a"]}, "no column"), ({"url": [1]}, "expected text")])
def test_parquet_without_a_text_column(tmp_path: Path, frame: dict[str, list[object]], text: str) -> None:
    """The column must be there and hold text."""
    pd.DataFrame(frame).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(UsageError, match=text):
        open_list(tmp_path / "list.parquet")


def test_parquet_that_is_damaged_inside_fails_loudly(tmp_path: Path) -> None:
    """A list that breaks in the middle ends the run, as what follows is unknown."""
    path = tmp_path / "list.parquet"
    pd.DataFrame({"url": [f"http://example.org/{row * 7919}" for row in range(50_000)]}).to_parquet(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 50_000] = bytes(50_000)
    path.write_bytes(data)
    with pytest.raises(RunFailed, match="after row"):
        list(open_list(path))


@pytest.mark.parametrize(("content", "expected"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"a\nb\n", 2)])
def test_how_many_lines_are_expected(tmp_path: Path, content: bytes, expected: int) -> None:
    """The number for the progress bar is known without reading the list as one."""
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    assert open_list(path).expected == expected


def test_reading_is_lazy(tmp_path: Path) -> None:
    """The first entries are there before the rest of the list is read."""
    path = tmp_path / "list.txt"
    path.write_text(f"{A}\n" * 3)
    lines = iter(open_list(path))
    assert next(lines).text == A
    with path.open("a") as file:
        file.write(f"{B}\n" * 100_000)
    assert sum(1 for _ in lines) == 100_002
