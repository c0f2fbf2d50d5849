from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_fanout.tasks.tables.columns import TIMESTAMP, TIMESTAMP_NS, TIMESTAMP_UTC, convert_column, fits, why_not
from prefect_fanout.tasks.tables.schema import CANDIDATES, TYPED_STARTS, infer_type

FITTING = {
    pa.int64(): ["0", "7", "-7", "10", "9223372036854775807", "-9223372036854775808", ""],
    pa.float64(): ["0", "0.5", "-0.5", ".5", "5.", "-12", "1e5", "1.5E-7", "1.5e300", "9007199254740992", "-0", ""],
    pa.bool_(): ["true", "True", "TRUE", "false", "False", "FALSE", ""],
    pa.date32(): ["2024-02-29", "1969-12-31", "9999-12-31", ""],
    TIMESTAMP: ["2024-01-05 10:11:12", "2024-01-05T10:11:12.123456", "2024-01-05", ""],
    TIMESTAMP_NS: ["2024-01-05T10:11:12.123456789", ""],
    TIMESTAMP_UTC: ["2024-01-05T10:11:12Z", "2024-01-05T10:11:12+02:00", ""],
}
MISFITS = {
    pa.int64(): [
        "007",
        "+5",
        "0x1F",
        "-0",
        " 5",
        "5 ",
        "1_000",
        "1.5",
        "1e5",
        "9223372036854775808",
        "NA",
        "٣",
        "\N{MINUS SIGN}5",
    ],
    pa.float64(): [
        *("007.5", "+5.5", "0x1F", " 5.0", "nan", "inf", "-Infinity", "1e400", "9007199254740993", "1,5", "1\u00a0000"),
        *("9007199254740993.0", "NaN", "00", "-00.5", "5 "),
    ],
    pa.bool_(): ["1", "0", "yes", "T", "tRuE", " true"],
    pa.date32(): ["2024-02-30", "2024-1-5", "01/02/2024", "2024-01-05 10:00", " 2024-01-05"],
    TIMESTAMP: ["2024-01-05T10:11:12.123456789", "2024-01-05T10:11:12Z", "2024-02-30 00:00:00", "24:00"],
    TIMESTAMP_NS: ["9999-12-31 00:00:00", "0001-01-01 00:00:00"],
    TIMESTAMP_UTC: ["2024-01-05T10:11:12"],
}
KINDS = list(FITTING)

numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.text(alphabet="0123456789.-+eExn _", max_size=8),
)


def _column(cells: list[str | None]) -> pa.Array:
    return pa.array(cells, pa.string())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_cells_of_a_type_fit(kind: pa.DataType) -> None:
    """Every usual way to write a value of the type is converted, and an empty cell is null."""
    typed, bad = convert_column(_column([*FITTING[kind], None]), kind)
    assert bad is None
    assert typed.type == kind
    assert typed.null_count == 2


@pytest.mark.parametrize(("kind", "cell"), [(kind, cell) for kind, cells in MISFITS.items() for cell in cells])
def test_a_cell_that_would_lose_something_does_not_fit(kind: pa.DataType, cell: str) -> None:
    """What the library would read as another value, round, or cut is named, and only that."""
    good = FITTING[kind][0]
    typed, bad = convert_column(_column([good, cell, None, good]), kind)
    assert bad is not None
    assert bad.tolist() == [False, True, False, False]
    assert typed.null_count == 2
    assert repr(cell) in why_not(cell, kind)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(numbers | st.none(), max_size=12), st.sampled_from(KINDS))
def test_a_cell_is_judged_by_itself(cells: list[str | None], kind: pa.DataType) -> None:
    """Whether a cell fits, and what it becomes, does not depend on the other cells of its block."""
    typed, bad = convert_column(_column(cells), kind)
    for i, cell in enumerate(cells):
        alone, misfit = convert_column(_column([cell]), kind)
        assert (misfit is not None) == (bad is not None and bool(bad[i]))
        assert alone[0] == typed[i] or not alone[0].is_valid


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(numbers, min_size=1, max_size=12))
def test_integers_come_back_as_they_were_written(cells: list[str]) -> None:
    """An integer that fits is written back with the same characters."""
    typed, bad = convert_column(_column(cells), pa.int64())
    for i, cell in enumerate(cells):
        if cell and (bad is None or not bad[i]):
            assert str(typed[i].as_py()) == cell


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(numbers, min_size=1, max_size=12))
def test_doubles_are_the_nearest_to_what_was_written(cells: list[str]) -> None:
    """A number that fits a double is the double that Python reads, and whole numbers are kept exactly."""
    typed, bad = convert_column(_column(cells), pa.float64())
    for i, cell in enumerate(cells):
        if cell and (bad is None or not bad[i]):
            assert typed[i].as_py() == float(cell)
            if cell.lstrip("-").isdigit():
                assert Decimal(cell) == Decimal(typed[i].as_py())


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(numbers | st.sampled_from(["", "true", "2024-01-05"]), min_size=1, max_size=6))
def test_an_inferred_type_holds_every_cell(cells: list[str]) -> None:
    """A column is only given a type in which nothing of it is lost."""
    kind = infer_type(_column(cells))
    assert kind in (*CANDIDATES, pa.string())
    assert convert_column(_column(cells), kind)[1] is None


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(numbers | st.sampled_from(["", "true", "2024-01-05", "2024-01-05 10:11:12"]), max_size=6))
def test_a_column_fits_when_no_cell_of_it_is_a_misfit(cells: list[str]) -> None:
    """The short answer about a whole column is the one that its cells give."""
    for kind in CANDIDATES:
        assert fits(_column(cells), kind) == (convert_column(_column(cells), kind)[1] is None)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(min_size=1, max_size=12) | st.builds("{}{}".format, st.characters(), numbers))
def test_no_type_has_cells_that_begin_otherwise(cell: str) -> None:
    """What begins with a character that no typed cell begins with is of none of the types."""
    if not cell.startswith(TYPED_STARTS):
        assert not any(fits(_column([cell]), kind) for kind in CANDIDATES)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2"], pa.int64()),
        (["1", "", "2"], pa.int64()),
        (["1", "2.5"], pa.float64()),
        (["0.1", "1e-05"], pa.float64()),
        (["true", "FALSE"], pa.bool_()),
        (["2024-01-05"], pa.date32()),
        (["2024-01-05", "2024-01-05 10:00:00"], TIMESTAMP),
        (["2024-01-05 10:00:00.123456789"], TIMESTAMP_NS),
        (["2024-01-05T10:00:00Z", "2024-01-05T10:00:00-08:00"], TIMESTAMP_UTC),
        (["00123", "456"], pa.string()),
        (["+5"], pa.string()),
        (["0x1F"], pa.string()),
        (["1e5", "2"], pa.string()),
        (["1_000"], pa.string()),
        (["1,234"], pa.string()),
        (["9223372036854775808"], pa.string()),
        (["9007199254740993", "0.5"], pa.string()),
        (["0.1234567890123456789"], pa.string()),
        (["1", "true"], pa.string()),
        (["yes", "no"], pa.string()),
        (["01/02/2024"], pa.string()),
        (["2024-02-30"], pa.string()),
        (["2024-01-05T10:00:00Z", "2024-01-05T10:00:00"], pa.string()),
        (["NA", "1"], pa.string()),
        (["nan", "1.5"], pa.string()),
        (["", ""], pa.string()),
        ([], pa.string()),
    ],
)
def test_types_are_inferred_only_when_nothing_is_in_doubt(cells: list[str], expected: pa.DataType) -> None:
    """Identifiers, huge numbers, ambiguous dates and mixtures stay text."""
    assert infer_type(_column(cells)) == expected
