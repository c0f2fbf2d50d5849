from __future__ import annotations

import csv
import io

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
    """Records that all have another width than the header are not shifted below it."""
    with pytest.raises(FileFault, match="names 2 columns but every record has 3"):
        _found(b"a,b\n1,2,3\n4,5,6\n")
    with pytest.raises(FileFault, match="names 1 columns but every record has 2"):
        _found(b"Report of May\na,b\n1,2\n", delimiter=",")


@pytest.mark.parametrize("sample", [b"a,b\n1,2,\n3,4,\n", b"a,b,\n1,2,\n3,4,\n", b"a,b,\n"])
def test_a_delimiter_at_the_end_of_each_record_is_no_column(sample: bytes) -> None:
    """With and without one at the end of the header, and in a file of a header only."""
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
