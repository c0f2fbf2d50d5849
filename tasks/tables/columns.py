"""One column of text as a typed column: exactly, or with every cell named that does not fit.

Arrow's own casts are lenient where it loses data: they read ``007`` as 7, ``0x1F`` as 31, ``1e400`` as infinity and
9007199254740993 as a double that is one less. Here a cell fits only if nothing of it is lost:

* int64: the text is the canonical decimal form of the number;
* double: a finite decimal number without leading zeros, plus sign or blanks; integers only up to where doubles hold
  them exactly. Digits beyond the seventeenth are rounded as in any double.
* bool: true or false, in lower case, upper case, or with a capital;
* date32: YYYY-MM-DD, a day that exists;
* timestamp: ISO 8601 with a space or a T, no finer than its unit; either all with a zone (kept in UTC) or all without.

An empty cell, quoted or not, is null in all of these. The checks are vectorised and cost nothing next to the parsing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    Array: TypeAlias = pa.Array[Any]  # not subscriptable when it runs

Number = TypeVar("Number", np.int64, np.float64)
Mask = npt.NDArray[np.bool_]

EXACT_DOUBLE = float(2**53)
"""Below this magnitude a double holds every integer."""

TIMESTAMP = pa.timestamp("us")
TIMESTAMP_NS = pa.timestamp("ns")
TIMESTAMP_UTC = pa.timestamp("us", tz="UTC")
TIMESTAMP_NS_UTC = pa.timestamp("ns", tz="UTC")

_DECIMAL = re.compile(r"-?(?:0|[1-9]\d*|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_BOOLEANS = pa.array(["true", "True", "TRUE", "false", "False", "FALSE"])
_BOOLEAN_VALUES = pa.array([True, True, True, False, False, False])


def in_one_piece(column: pa.ChunkedArray[Any]) -> Array:
    """The column as one array: the very piece it consists of, where it is one; `combine_chunks` copies that too."""
    if column.num_chunks == 1:
        return column.chunk(0)  # type: ignore[return-value] # the stubs say ChunkedArray, and are wrong
    return column.combine_chunks()


def convert_column(text: Array, kind: pa.DataType) -> tuple[Array, Mask | None]:
    """Convert a column of text.

    Args:
        text: The cells.
        kind: string, int64, double, bool, date32 or a timestamp.

    Returns:
        The typed column, null where a cell is null or does not fit, and a mask of the cells that do not fit; None
        if all fit.
    """
    if pa.types.is_string(kind):
        return text, None
    text, typed, bad = _whole(text, kind)
    if typed is None:
        bad = np.zeros(len(text), np.bool_)
        bad[_failing(text, lambda part: _try_cast(part, kind) is not None)] = True
        typed = _try_cast(_blank_out(text, bad), kind)
        if typed is None:
            raise AssertionError(f"a column of {kind} failed as a whole but none of its cells did")
        more = _losses(text, typed, kind)
        bad = bad if more is None else bad | more
    return (typed, None) if bad is None else (_blank_out(typed, bad), bad)


def fits(text: Array, kind: pa.DataType) -> bool:
    """Whether all cells fit; which ones do not is not looked for, as that takes many times as long."""
    _, typed, bad = _whole(text, kind)
    return typed is not None and bad is None


def _whole(text: Array, kind: pa.DataType) -> tuple[Array, Array | None, Mask | None]:
    """The text with null for empty cells, the typed column if Arrow casts all of it, the cells that lose by that."""
    text = empty_as_null(text)
    typed = _try_cast(text, kind)
    return text, typed, None if typed is None else _losses(text, typed, kind)


def _losses(text: Array, typed: Array, kind: pa.DataType) -> Mask | None:
    """The cells that are cast with a loss; None if there are none."""
    check = _CHECKS.get(kind.id)
    bad = check(text, typed) if check else None
    return bad if bad is not None and bad.any() else None


def empty_as_null(text: Array) -> Array:
    """The column with null for every empty cell."""
    if not len(text):
        return text
    ends, _ = _offsets(text)
    empty = ends[1:] == ends[:-1]
    return _blank_out(text, empty) if empty.any() else text


def why_not(value: str, kind: pa.DataType) -> str:
    """A sentence that says why a cell does not fit its column."""
    shown = value if len(value) <= 80 else value[:80] + "…"
    if pa.types.is_integer(kind):
        wanted = "a whole number from -2^63 to 2^63-1, without leading zeros, plus sign or blanks"
    elif pa.types.is_floating(kind):
        wanted = "a finite decimal number that a double can hold"
    elif pa.types.is_boolean(kind):
        wanted = "true or false"
    elif pa.types.is_date(kind):
        wanted = "a date that exists, as YYYY-MM-DD"
    else:
        zone = "with" if kind in (TIMESTAMP_UTC, TIMESTAMP_NS_UTC) else "without"
        digits = 9 if kind in (TIMESTAMP_NS, TIMESTAMP_NS_UTC) else 6
        wanted = f"an ISO 8601 time {zone} a time zone, with at most {digits} digits of a second"
    return f"expected {wanted}, got {shown!r}"


def _try_cast(text: Array, kind: pa.DataType) -> Array | None:
    try:
        if pa.types.is_boolean(kind):
            found = pc.index_in(text, _BOOLEANS)
            return _BOOLEAN_VALUES.take(found) if found.null_count == text.null_count else None
        return text.cast(kind)
    except pa.ArrowInvalid:
        return None


def _blank_out(column: Array, mask: Mask) -> Array:
    """The column with null where the mask says so. The values are shared: copying text takes longer than casting it."""
    valid = ~mask
    if column.null_count:
        valid &= _mask(column.is_valid())
    bits = np.packbits(np.concatenate((np.zeros(column.offset, np.bool_), valid)), bitorder="little")
    buffers = [pa.py_buffer(bits.tobytes()), *column.buffers()[1:]]
    return pa.Array.from_buffers(column.type, len(column), buffers, offset=column.offset)


def _mask(column: Array) -> Mask:
    """A column of bool without nulls as numpy's."""
    return np.asarray(column, np.bool_)


def _failing(text: Array, fits: Callable[[Array], bool], base: int = 0) -> list[int]:
    """Positions of the cells that do not fit, by halving: k of n cells are found in about k log n casts."""
    if fits(text):
        return []
    if len(text) == 1:
        return [base]
    half = len(text) // 2
    return _failing(text[:half], fits, base) + _failing(text[half:], fits, base + half)


def _offsets(text: Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Where each cell ends, with the start of the first before it, and the bytes of all."""
    _, offsets, data = text.buffers()
    ends = np.frombuffer(memoryview(offsets or b""), np.int32)[text.offset : text.offset + len(text) + 1]
    return ends, np.frombuffer(memoryview(data or b""), np.uint8)


def _int_loses(text: Array, typed: Array) -> Mask | None:
    """Cells that are not the canonical form of their number; decided by the total length of all texts."""
    if not len(text):
        return None
    ends, _ = _offsets(text)
    values = _values(typed, np.int64)
    if typed.null_count:
        values = values[_mask(typed.is_valid())]
    low, high = (int(np.min(values)), int(np.max(values))) if len(values) else (0, 0)
    expected = len(values)
    if low < 0:
        expected += int(np.count_nonzero(values < 0))
        values = np.abs(values)
        high = max(high, -low)
    power = 10
    while power <= high:
        expected += int(np.count_nonzero(values >= power))
        power *= 10
    if expected == int(ends[-1]) - int(ends[0]) and low > np.iinfo(np.int64).min:
        return None
    return _mask(pc.not_equal(typed.cast(pa.string()), text).fill_null(False))


def _double_loses(text: Array, typed: Array) -> Mask | None:
    """Cells that are no plain decimal number, or that the double does not hold."""
    if not len(text):
        return None
    ends, data = _offsets(text)
    values = _values(typed, np.float64)
    with np.errstate(invalid="ignore"):  # what lies under a null may be anything
        doubtful = ~(np.abs(values) < EXACT_DOUBLE)
    valid = _mask(typed.is_valid()) if typed.null_count else None
    if len(data):
        first = data.take(ends[:-1], mode="clip")  # clip: empty cells may start behind the last byte
        # most cells that begin with another character are 0.5 and -12.5: only what is left is looked at one by one
        others = (first < ord("1")) | (first > ord("9"))
        rows = np.flatnonzero(others if valid is None else others & valid)
        digit = ends[rows] + (first[rows] == ord("-"))
        lead, after = data.take(digit, mode="clip"), data.take(digit + 1, mode="clip")
        plain = (lead >= ord("1")) & (lead <= ord("9"))
        plain |= (lead == ord("0")) & ((after == ord(".")) | (digit + 1 >= ends[rows + 1]))
        plain |= (lead == ord(".")) & (after >= ord("0")) & (after <= ord("9"))
        doubtful[rows[~plain]] = True
    if valid is not None:
        doubtful &= valid
    bad = np.zeros(len(text), np.bool_)
    for i in np.flatnonzero(doubtful).tolist():
        cell = text[i].as_py()
        bad[i] = not _DECIMAL.fullmatch(cell) or _differs(cell, float(values[i]))
    return bad


def _differs(cell: str, value: float) -> bool:
    if not np.isfinite(value):
        return True
    return abs(value) >= EXACT_DOUBLE and Decimal(cell) != Decimal(repr(value))


def _values(column: Array, kind: type[Number]) -> npt.NDArray[Number]:
    """The values of a column of 8-byte numbers without a copy; undefined where it is null."""
    return np.frombuffer(memoryview(column.buffers()[1] or b""), kind, count=len(column), offset=column.offset * 8)


_CHECKS: dict[int, Callable[[Array, Array], Mask | None]] = {
    pa.int64().id: _int_loses,
    pa.float64().id: _double_loses,
}
