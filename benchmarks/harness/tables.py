"""CSV files to ingest: 15 columns of every usual kind, the same bytes in each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

# Any: the stubs know only some of the argument types that these functions take.
pc: Any = pyarrow.compute

MB = 1_000_000
CHUNK_ROWS = 50_000
ROW_BYTES = 107  # that of the files with which the targets were set: 9 million rows of 15 columns in 968 MB
WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fable", "grove", "harbor", "island", "jasper", "kernel", "ledger"),
    *("meadow", "needle", "orchard", "pepper", "quarry", "ribbon", "saddle", "timber", "umber", "velvet", "willow"),
)
COUNTRIES = (
    *("AT", "AU", "BE", "BR", "CA", "CH", "CN", "CZ", "DE", "DK", "EG", "ES", "FI", "FR", "GB", "GR", "HU", "IE"),
    *("IN", "IT", "JP", "KE", "MX", "NL", "NO", "NZ", "PL", "PT", "SE", "US"),
)
STATUSES = ("new", "paid", "packed", "shipped", "returned")
CHANNELS = ("web", "shop", "phone", "partner")
COLUMNS = (
    *("id", "created", "day", "customer", "country", "city", "status", "channel"),
    *("price", "quantity", "discount", "latitude", "longitude", "sku", "comment"),
)
FIRST_SECOND = 1_704_067_200  # 2024-01-01
SECONDS_A_DAY = 86_400


def make_tables(folder: Path, files: int, mb: float) -> int:
    """Write `files` CSV files of about `mb` megabytes each; return their rows together, headers not counted.

    Numbers, a timestamp, a date, words of few and of many values, empty cells in two columns, and a comment of which
    every tenth is quoted because of a comma in it.
    """
    folder.mkdir(parents=True)
    rows = 0
    for number in range(files):
        random = np.random.default_rng(number)
        with (folder / f"orders-{number:02d}.csv").open("wb") as file:
            file.write(",".join(COLUMNS).encode() + b"\n")
            while (missing := mb * MB - file.tell()) > 0:
                count = min(CHUNK_ROWS, round(missing / ROW_BYTES) + 1)
                file.write(_lines(random, rows, count))
                rows += count
    return rows


def _lines(random: np.random.Generator, first: int, count: int) -> bytes:
    def word_of(words: tuple[str, ...]) -> Any:
        return pc.take(pa.array(words), pa.array(random.integers(0, len(words), count)))

    def decimal(low: float, high: float, digits: int) -> Any:
        return pa.array(np.round(random.uniform(low, high, count), digits)).cast(pa.string())

    seconds = pa.array(FIRST_SECOND + np.arange(first, first + count) * 3)
    discount = pa.array(np.round(random.uniform(0, 0.5, count), 2), mask=random.random(count) < 0.6)
    two_words = pc.binary_join_element_wise(word_of(WORDS), word_of(WORDS), ", ")
    quoted = pc.binary_join_element_wise('"', two_words, '"', "")
    kind = random.random(count)
    comment = pc.if_else(pa.array(kind < 0.1), quoted, pc.if_else(pa.array(kind < 0.8), word_of(WORDS), ""))
    columns = [
        pa.array(np.arange(first, first + count)).cast(pa.string()),
        seconds.cast(pa.timestamp("s")).cast(pa.string()),
        pc.divide(seconds, SECONDS_A_DAY).cast(pa.int32()).cast(pa.date32()).cast(pa.string()),
        pa.array(random.integers(1, 200_000, count)).cast(pa.string()),
        word_of(COUNTRIES),
        pc.binary_join_element_wise(word_of(WORDS), pa.array(random.integers(0, 100, count)).cast(pa.string()), ""),
        word_of(STATUSES),
        word_of(CHANNELS),
        decimal(0.5, 999, 2),
        pa.array(random.integers(1, 60, count)).cast(pa.string()),
        pc.fill_null(discount.cast(pa.string()), ""),
        decimal(-90, 90, 3),
        decimal(-180, 180, 3),
        pc.binary_join_element_wise("S", pa.array(random.integers(10**4, 10**6, count)).cast(pa.string()), ""),
        comment,
    ]
    lines = pc.binary_join_element_wise(*columns, ",")
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), lines), "\n")
    return bytes(text[0].as_py().encode()) + b"\n"
