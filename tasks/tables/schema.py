"""The types of a file's columns, found once in its first block and kept to its end."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefect_fanout.tasks.tables.columns import (
    TIMESTAMP,
    TIMESTAMP_NS,
    TIMESTAMP_NS_UTC,
    TIMESTAMP_UTC,
    fits,
    in_one_piece,
)

CANDIDATES: tuple[pa.DataType, ...] = (
    pa.bool_(),
    pa.int64(),
    pa.float64(),
    pa.date32(),
    TIMESTAMP,
    TIMESTAMP_NS,
    TIMESTAMP_UTC,
    TIMESTAMP_NS_UTC,
)
"""Tried in this order; a column that fits none of them in all its cells stays text."""

TYPED_STARTS = tuple("-.0123456789tTfF")
"""What a cell of any of these begins with; so a column of words costs a glance at one cell."""

DICTIONARY_ROWS = 16 * 1024
"""Rows of the first block in which values are counted."""

DICTIONARY_SHARE = 0.1
"""Parquet dictionaries are built for columns with at most this share of different values among those rows. Such columns
come out smaller and no slower. A dictionary of mostly unique values is hashed in full and then thrown away by the
writer, once it is larger than 1 MiB, which costs up to half of the writing time."""

SIGNIFICANT_DIGITS = 17
"""A double holds any decimal number of up to 15 significant digits, and 17 are written by programs that print doubles
in full. A column with longer ones is something else than measured numbers, and stays text."""

_LONG_NUMBER = re.compile(rf"[1-9](?:\.?\d){{{SIGNIFICANT_DIGITS},}}", re.ASCII)


def infer_schema(names: Sequence[str], text: pa.Table, as_text: Collection[str] = ()) -> pa.Schema:
    """The schema for a file.

    A column is typed only if all its cells in `text` are of the type without any loss, as `columns` defines it. In
    doubt it is text: identifiers with leading zeros, numbers beyond int64, ``1e5`` without a decimal point,
    ``01/02/2024``, yes and no, and columns without any value.

    Args:
        names: The column names.
        text: The first block, all columns text, in the order of `names`.
        as_text: Names of columns that shall be text whatever they hold.
    """
    return pa.schema(
        [
            pa.field(name, pa.string() if name in as_text else infer_type(in_one_piece(text.column(i))))
            for i, name in enumerate(names)
        ]
    )


def infer_type(text: pa.Array[Any]) -> pa.DataType:
    """The first type that all cells fit, or string."""
    position = pc.index(pc.not_equal(text, pa.scalar("")), True).as_py()
    first = text[position].as_py() if position >= 0 else ""
    if not first.startswith(TYPED_STARTS):
        return pa.string()
    for kind in CANDIDATES:
        if fits(pa.array([first]), kind) and fits(text, kind):  # one cell rules out most
            if pa.types.is_floating(kind) and not _measured(text):
                continue
            return kind
    return pa.string()


def dictionary_columns(text: pa.Table, schema: pa.Schema) -> list[str]:
    """The columns that repeat themselves in the first block, for which a Parquet dictionary pays."""
    sample = text.slice(0, DICTIONARY_ROWS)
    most = max(1, DICTIONARY_SHARE * sample.num_rows)
    beginning = sample.slice(0, 2 * int(most))  # alone enough to rule out a column of mostly different values
    return [
        field.name
        for i, field in enumerate(schema)
        # Parquet packs booleans into bits as they are
        if not pa.types.is_boolean(field.type)
        and all(len(pc.unique(part.column(i))) <= most for part in (beginning, sample))
    ]


def _measured(text: pa.Array[Any]) -> bool:
    """Whether decimal numbers look like measured ones: a decimal point somewhere, and no more digits than a double."""
    if not pc.any(pc.match_substring(text, ".")).as_py():
        return False
    longest = pc.max(pc.binary_length(text)).as_py()  # type: ignore[call-overload] # the stubs want the array's class
    if longest <= SIGNIFICANT_DIGITS:
        return True
    return not pc.any(pc.match_substring_regex(text, _LONG_NUMBER.pattern)).as_py()
