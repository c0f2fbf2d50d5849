"""Reading lists of URLs in every form, with bad lines in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.images.delimited_list import MAX_QUOTED_CHARACTERS
from prefect_fanout.tasks.images.text_lines import MAX_LINE_CHARACTERS, Line
from prefect_fanout.tasks.images.url_list import open_list
from servers.memory import growth_mb

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
def test_columns(tmp_path: Path, suffix: str, delimiter: str) -> None:
    """The column is found by name, short rows are bad entries, empty lines are none."""
    path = tmp_path / f"list.{suffix}"
    rows = [["id", " url"], ["1", "http://example.org/a"], [], ["2"], ["3", "http://example.org/b", "more"], ["4", ""]]
    path.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    lines = list(open_list(path))
    assert [line.text for line in lines] == ["http://example.org/a", "", "http://example.org/b", ""]
    assert [line.problem is None for line in lines] == [True, False, True, True]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_quoted_fields_of_csv(tmp_path: Path, encoding: str) -> None:
    """Quoted fields may hold commas, doubled quotation marks and line breaks; the number of entries is exact."""
    path = tmp_path / "list.csv"
    path.write_text(f'caption,url\n"a ""b"", c","{A}"\n\n"d\n\ne",{B}\nf "g" h,{B}\n"i"j,{B}\n', encoding=encoding)
    found = open_list(path)
    assert [line.text for line in found] == [A, B, B, B]
    assert found.expected == 4


def test_a_quotation_mark_in_tsv_is_a_character(tmp_path: Path) -> None:
    """No entry of a TSV is lost to a quotation mark, wherever it stands."""
    path = tmp_path / "list.tsv"
    captions = ['"open', "plain", '"He" said', 'in "the" middle', '"', 'end"']
    urls = [f"http://example.org/{number}" for number in range(len(captions))]
    rows = [f"{caption}\t{url}\n" for caption, url in zip(captions, urls, strict=True)]
    path.write_text("caption\turl\n" + "".join(rows))
    found = open_list(path)
    assert [line.text for line in found] == urls
    assert found.expected == len(urls)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('"url', 1),
        ('url\n"http://example.org/a', 2),
        ('url\na\n"', 3),
        ('url,x\na,"b\nc,d\n', 2),
        ('url,x\na,"b\nc"\nd,"e\n', 4),
        ('url,x\na,"b""\nc,d\n', 2),
        ("url,x\n" + "a,b\n" * 1_000 + 'c,"d\n' + "e,f\n" * 50_000 + 'g,"h"\n', 1_002),
        ('url,x\n"' + "y" * 2 * MAX_LINE_CHARACTERS + '",a\nb,"c"\n', 2),
        ("url,x\n" + "y" * 100_000 + ',"' + "y" * 100_000 + '"\nc,"d"\n', 2),
        ('url,x\n"' + "y" * 131_000 + "\n" + "z" * 10_000 + '",a\nb,"c"\n', 2),
    ],
    ids=[
        "header",
        "last line",
        "alone",
        "second column",
        "after a closed one",
        "doubled",
        "far away",
        "cut line",
        "field cut off",
        "long field",
    ],
)
def test_an_open_quotation_mark_is_refused(tmp_path: Path, content: str, line: int, encoding: str) -> None:
    """A quoted field of a CSV that is not closed is named by its line before anything is read."""
    path = tmp_path / "list.csv"
    path.write_text(content, encoding=encoding)
    with pytest.raises(UsageError, match=rf"line {line:,} has a quotation mark that is not closed"):
        open_list(path)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_quoted_field_up_to_the_limit(tmp_path: Path, extra: int) -> None:
    """A quoted field that goes on after its line is read up to the limit."""
    path = tmp_path / "list.csv"
    inside = "x" * (MAX_QUOTED_CHARACTERS + extra - 1) + "\n"
    path.write_text(f'caption,url\n"a\n{inside}b",http://example.org/a\n')
    if extra <= 0:
        assert texts(path) == ["http://example.org/a"]
    else:
        with pytest.raises(UsageError, match=r"line 2 has a quotation mark that is not closed within 65,536"):
            open_list(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_line_that_is_too_long_costs_one_row(tmp_path: Path, suffix: str) -> None:
    """The rest of a line that is too long is skipped, and the rows around it are whole."""
    path = tmp_path / f"list.{suffix}"
    between = "," if suffix == "csv" else "\t"
    rows = [["url", "x"], ["http://example.org/a", "y" * 300_000], ["http://example.org/b", "z"]]
    path.write_text("\n".join(between.join(row) for row in rows))
    assert texts(path) == ["http://example.org/a", "http://example.org/b"]


def test_the_option_is_named_as_it_is_typed(tmp_path: Path) -> None:
    """A column that is not there is answered with the option to name another one."""
    path = tmp_path / "list.csv"
    path.write_text("link\nhttp://example.org/a\n")
    with pytest.raises(UsageError, match=r"no column 'url', but 'link'; name the right one with --url-column"):
        open_list(path)


@pytest.mark.parametrize(
    ("change", "suffixes"),
    [
        ("shorter", "txt csv tsv jsonl parquet"),
        ("gone", "txt csv tsv jsonl parquet"),
        ("pipe", "txt csv tsv jsonl parquet"),
        ("other columns", "csv tsv parquet"),
        ("open quote", "csv"),
    ],
)
def test_a_list_that_changes_is_not_read_in_part(tmp_path: Path, change: str, suffixes: str) -> None:
    """A list that lost entries after it was opened, or cannot be read any more, ends the run loudly and at once."""

    def write(path: Path, rows: int = 10, column: str = "url", before: str = "") -> None:
        if path.suffix == ".parquet":
            pd.DataFrame({column: ["http://example.org/a"] * rows}).to_parquet(path)
        else:
            path.write_text(f"{column}\n" + f"{before}http://example.org/a\n" * rows)

    for suffix in suffixes.split():
        path = tmp_path / f"list.{suffix}"
        write(path)
        found = open_list(path)
        path.unlink()
        if change == "pipe":
            os.mkfifo(path)
        elif change != "gone":
            wrong = {
                "shorter": {"rows": 9},
                "other columns": {"column": "x"},
                "open quote": {"rows": 11, "before": '"'},
            }
            write(path, **wrong[change])  # type: ignore[arg-type] # one dict of arguments of several types
        with pytest.raises(RunFailed, match=f"list.{suffix} cannot be read to its end"):
            list(found)


READ = """
def prepare():
    global open_list
    from prefect_fanout.tasks.images.url_list import open_list

def work(path, expected):
    try:
        lines = open_list(path)
        count = 0
        for line in lines:
            count += 1
    except Exception as error:
        count = type(error).__name__
    assert str(count) == expected, count
"""


@pytest.mark.parametrize(
    ("name", "begin", "block", "times", "expected"),
    [
        ("list.csv", 'x,url\nx,"\n', '",' + "a," * 1_000 + '"\n', 50_000, "UsageError"),
        ("list.csv", 'x,url\n"', "a,a\n" * 1_000, 25_000, "UsageError"),
        ("list.csv", "x,url\n", '"" ""' * 1_000, 20_000, "1"),
        ("list.tsv", 'x\turl\nx\t"\n', "a\t" * 1_000, 50_000, "2"),
        ("list.txt", "", "x" * 1_000, 100_000, "1"),
        ("list.jsonl", "", '{"url":' * 1_000, 15_000, "1"),
    ],
    ids=["record", "quote", "quotes", "tsv line", "txt line", "json line"],
)
def test_an_endless_part_of_a_list_takes_little_memory(
    tmp_path: Path, name: str, begin: str, block: str, times: int, expected: str
) -> None:
    """A list of 100 MB that is one record or one line is refused or one bad entry, in less than 200 MB."""
    with (tmp_path / name).open("w") as file:
        file.write(begin)
        for _ in range(times // 50):
            file.write(block * 50)
    assert growth_mb(READ, str(tmp_path / name), expected) < 200


def test_jsonl(tmp_path: Path) -> None:
    """Objects and plain strings are read; everything else is a bad entry."""
    path = tmp_path / "list.jsonl"
    lines = [json.dumps({"url": A}), json.dumps(B), "", "{broken", "{}", "[1]", '{"url": null}', "[" * 100_000]
    path.write_text("\n".join(lines))
    found = list(open_list(path))
    assert [line.text for line in found[:2]] == [A, B]
    assert len(found) == 7
    assert all(line.problem for line in found[2:])


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("list.txt", None, "cannot be read"),
        ("list.parquet", None, "cannot be read"),
        ("list.parquet", b"no parquet", "not Parquet"),
        ("list.xlsx", b"", "ends in .txt"),
        ("list", b"", "ends in .txt"),
        ("list.csv", b"", "is empty"),
        ("list.csv", b"id,link\n", "no column 'url', but 'id', 'link'"),
        ("list.csv", b'"' + b"x" * 200_000, "quotation mark"),
        ("list.csv", b"\n", "no column"),
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
