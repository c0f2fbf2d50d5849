from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_fanout.tasks.tables.dialect import Dialect, detect, split_fields, unique_names
from prefect_fanout.tasks.tables.faults import FileFault


def _found(sample: bytes, **options: object) -> Dialect:
    dialect = detect(sample, final=True, **options)  # type: ignore[arg-type] # the tests vary one option at a time
    assert dialect is not None
    return dialect


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    """Each of the four is found, with the others inside the values."""
    rows = [["id", "name", "price"], ["1", "a,b;c|d\te", "1.5"], ["2", "x, y", "2.5"]]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(rows)
    dialect = _found(out.getvalue().encode())
    assert (dialect.delimiter, dialect.names) == (delimiter, ("id", "name", "price"))


@pytest.mark.parametrize(
    ("sample", "delimiter", "names"),
    [
        (b"a;b\n1,5;2,5\n3,5;4,5\n", ";", ("a", "b")),  # decimal commas
        (b"a,b,c\n1,2,3\n4,5\n6,7,8,9\n", ",", ("a", "b", "c")),  # ragged: not one column
        (b"a,b\n1,2\nTotal: 1 row\n", ",", ("a", "b")),  # a footer
        (b"name\nx\ny\n", ",", ("name",)),
        (b"a,b\n", ",", ("a", "b")),
        (b"a|b", "|", ("a", "b")),
        (b"sep=;\r\na;b\r\n1;2\r\n", ";", ("a", "b")),
        (b"sep=\t\na\tb\n", "\t", ("a", "b")),
        (b'"a,x";b\n1;2\n', ";", ("a,x", "b")),
    ],
)
def test_odd_files_have_a_dialect(sample: bytes, delimiter: str, names: tuple[str, ...]) -> None:
    """The header decides which delimiters are possible, the records which one it is."""
    dialect = _found(sample)
    assert (dialect.delimiter, dialect.names) == (delimiter, names)


def test_a_declared_delimiter_wins() -> None:
    """What the user says is not guessed."""
    assert _found(b"a,b;c\n1,2;3\n", delimiter=";").names == ("a,b", "c")


def test_lines_before_the_header_are_passed_by_when_told() -> None:
    """They are counted, so that line numbers stay true."""
    dialect = _found(b"Report\r\n\r\na,b\r\n1,2\r\n", skip_lines=2)
    assert (dialect.names, dialect.skipped_lines, dialect.skipped_bytes) == (("a", "b"), 2, 10)


def test_a_header_that_does_not_belong_to_the_records_is_a_fault() -> None:
    """Records of which none has the header's width are not shifted below it; the sentence has the true figures."""
    with pytest.raises(
        FileFault, match="names 2 columns, but none of the first 2 records has 2 fields; 2 of them have 3"
    ):
        _found(b"a,b\n1,2,3\n4,5,6\n")
    with pytest.raises(
        FileFault, match="names 1 column, but none of the first 2 records has 1 field; 2 of them have 2"
    ):
        _found(b"Report of May\na,b\n1,2\n", delimiter=",")
    with pytest.raises(FileFault, match="none of the first 199 records has 3 fields; 100 of them have 2") as caught:
        _found(b"a,b,c\n" + b"1,2\n1,2,3,4\n" * 500)
    assert caught.value.kind == "header_mismatch"
    assert "--skip-lines" in caught.value.message


@pytest.mark.parametrize("odd", [b"1,2\n", b"1,2,3,4\n", b"1\n", b"1,2\n1\n1,2,3,4\n"])
@pytest.mark.parametrize("good", [1, 2, 999])
def test_odd_records_do_not_refuse_a_file(odd: bytes, good: int) -> None:
    """Not even in front of all others, as long as one record has the header's width: they are rejects."""
    dialect = _found(b"a,b,c\n" + odd + b"1,2,3\n" * good)
    assert (dialect.names, dialect.width) == (("a", "b", "c"), 3)


ROWS = [f"{number}{{0}}x y{{0}}{number * 7}\n" for number in range(300)]


def _rows(delimiter: str, count: int = 300) -> str:
    return "".join(ROWS[:count]).format(delimiter)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^", "~", ":"])
@pytest.mark.parametrize("title", ["Umsatz 2024\n", "# a\n\n# b\r\n", "# comment\n" * 10])
@pytest.mark.parametrize("count", [2, 3, 8, 300])
def test_a_table_behind_a_title_is_not_read_as_one_column(delimiter: str, title: str, count: int) -> None:
    """It is refused, and the lines to skip and the delimiter that the sentence names read it well."""
    text = f"{title}id{{0}}name{{0}}n\n".format(delimiter) + _rows(delimiter, count)
    if title.count("#") == 10 and count < 10:
        return  # a table that is shorter than the comments before it is not recognised
    with pytest.raises(FileFault, match="reads as one column") as caught:
        _found(text.encode())
    assert caught.value.kind == "one_column"
    lines = title.count("\n")
    assert f"have 3 fields with the delimiter {delimiter!r}" in caught.value.message
    assert f"(--skip-lines {lines})" in caught.value.message
    named = f"(--delimiter '{delimiter}')" in caught.value.message
    assert named == (delimiter in "^~:")
    dialect = _found(text.encode(), skip_lines=lines, delimiter=delimiter if named else None)
    assert (dialect.names, dialect.delimiter) == (("id", "name", "n"), delimiter)


@pytest.mark.parametrize("text", ["1::F::1::10::48067\n" * 40, "user::age\n" + "anna::1\n" * 40])
def test_a_delimiter_of_two_characters_is_named(text: str) -> None:
    """It cannot be read, and one column of it all would not be the table."""
    with pytest.raises(FileFault, match=r"delimiter '::'.*write a delimiter of one character into the file"):
        _found(text.encode())


def test_a_table_that_needs_only_its_delimiter_is_told_so() -> None:
    """The user accounts of a system have no title."""
    text = b"".join(b"user%d:x:%d:%d::/home/user%d:/bin/sh\n" % ((number,) * 4) for number in range(40))
    with pytest.raises(
        FileFault, match=r"have 7 fields with the delimiter ':'. If it is a table, name its delim"
    ) as caught:
        _found(text)
    assert "skip" not in caught.value.message
    assert _found(text, delimiter=":").width == 7


@pytest.mark.parametrize(("agreeing", "refused"), [(180, True), (179, False)])
def test_nine_of_ten_records_make_a_table(agreeing: int, refused: bool) -> None:
    """Of the 200 records after the first ten; a list in which fewer have one width is one column."""
    text = b"title\n" + b"plain\n" * 9 + b"a;b\n" * agreeing + b"c\n" * (200 - agreeing) + b"a;b\n" * 500
    if refused:
        with pytest.raises(FileFault, match="180 of 200 records after the first few have 2 fields"):
            _found(text)
    else:
        assert _found(text).names == ("title",)


@pytest.mark.parametrize(
    "value",
    [
        "https://example.org/{0}?q=a",
        "http://example.org:8080/{0}",
        "s3://bucket/{0}.csv",
        "12:{0}",
        "2:{0} PM",
        "12:{0}:07",
        "2024-01-02T12:{0}:07.123+01:00",
        "2024-01-02 12:{0}Z",
        "2001:db8::{0}",
        "2001:db8:{0}::/48",
        "2001:db8:0:1:2:3:4:{0}",
        "aa:bb:cc:dd:ee:{0}",
        "C:\\Users\\{0}.txt",
        "~/docs/{0}.txt",
        "2024-01-{0}",
        "/home/a/{0}.txt",
        "a{0}@example.org",
        "192.168.0.{0}",
        '"Lovelace, Ada {0}"',
        "{0}.5",
        "word {0}",
    ],
)
@pytest.mark.parametrize("header", ["value\n", ""])
def test_a_list_of_single_values_is_one_column(value: str, header: str) -> None:
    """Addresses, times, paths and the like hold characters that delimit tables elsewhere."""
    text = header + "".join(f"{value.format(10 + number % 50)}\n" for number in range(300))
    dialect = _found(text.encode())
    assert dialect.width == 1


@pytest.mark.parametrize("value", ["Lovelace, Ada", "key: value", "host:80", "std::vector", "x^2", "~7", "a;b", "1:2"])
def test_a_list_that_looks_like_a_table_has_a_way_through(value: str) -> None:
    """The sentence names a delimiter that does not occur, and with it the list is one column."""
    text = b"value\n" + value.encode() * 1 + b"\n" + f"{value}\n".encode() * 30
    with pytest.raises(FileFault, match="If it is one column, name a delimiter that is not in it") as caught:
        _found(text)
    match = re.search(r"\(--delimiter '(.)'\)\.$", caught.value.message)
    assert match
    assert _found(text, delimiter=match[1]).names == ("value",)


@pytest.mark.parametrize("text", ["", "a\n", "a\nb;c\n", "name\nx\ny\n"])
def test_too_few_records_are_no_table(text: str) -> None:
    """One record is no evidence."""
    dialect = detect(text.encode(), final=True)
    assert dialect is None or dialect.width == 1


@pytest.mark.parametrize(
    "sample", [b"a,b\n1,2,\n3,4,\n", b"a,b,\n1,2,\n3,4,\n", b"a,b,\n", b"a,b\n" + b"1,2,\n" * 30 + b"1,2\n" + b"3,4,\n"]
)
def test_a_delimiter_at_the_end_of_each_record_is_no_column(sample: bytes) -> None:
    """With and without one at the end of the header, in a file of a header only, and although one record lacks it."""
    dialect = _found(sample)
    assert (dialect.names, dialect.width, dialect.notes) == (("a", "b"), 3, ("trailing_delimiter",))


def test_a_last_column_without_a_name_that_is_used_is_a_column() -> None:
    """It is given a name by its position."""
    assert _found(b"a,b,\n1,2,x\n3,4,\n").names == ("a", "b", "column_3")


def test_without_a_header_columns_are_named_by_position() -> None:
    """The first record is data then."""
    dialect = _found(b"1,2\n3,4\n", header=False)
    assert (dialect.names, dialect.header) == (("column_1", "column_2"), None)


def test_a_text_without_records_has_no_dialect() -> None:
    """Empty files and files of empty lines have nothing to be found out."""
    assert detect(b"", final=True) is None
    assert detect(b"\n\r\n\n", final=True) is None


def test_a_header_that_is_not_utf_8_asks_for_the_encoding() -> None:
    """Guessed names would be wrong names."""
    with pytest.raises(FileFault, match="cp1252"):
        _found("näme,b\n1,2\n".encode("cp1252"))


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["a", "a", "a"], ("a", "a_2", "a_3")),
        (["a", "A"], ("a", "A_2")),
        (["a_2", "a", "a"], ("a_2", "a", "a_3")),
        (["a", "a", "a_2"], ("a", "a_3", "a_2")),
        (["", " ", "x"], ("column_1", "column_2", "x")),
        (["", "column_1"], ("column_1", "column_1_2")),
        ([], ()),
    ],
)
def test_names_are_made_unique(written: list[str], names: tuple[str, ...]) -> None:
    """Duplicates are told apart by a number, without taking a name that another column has."""
    assert unique_names(written)[0] == names


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.text(alphabet="aA_2 ", max_size=4), max_size=8))
def test_names_differ_even_when_case_is_ignored(written: list[str]) -> None:
    """For any header, as many different names as columns come out, and the map tells each change."""
    names, renamed = unique_names(written)
    assert len({name.casefold() for name in names}) == len(written)
    assert [(old, new) for old, new in zip(written, names, strict=True) if old != new] == list(renamed)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.text(alphabet='ab," \n', max_size=5), min_size=1, max_size=5))
def test_fields_are_split_as_the_csv_module_does(row: list[str]) -> None:
    """A record written by the csv module is split into what it was made of."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="").writerow(row)
    assert split_fields(out.getvalue(), ",") == row
