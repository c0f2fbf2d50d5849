"""The CSV files of `fanout demo`: ten exports of a shop, with a few rows that do not fit."""

from __future__ import annotations

import random
from pathlib import Path

FILES = 10
ROWS_PER_FILE = 20_000
COLUMNS = "order_id,ordered_at,customer,country,quantity,unit_price,paid,comment"
COUNTRIES = ("DE", "FR", "IT", "JP", "KE", "MX", "NO", "PE")
# Each is one line of one file. A reader that pads, cuts or guesses would let them through without a word.
BAD_ROWS = {
    2: ("900001,2026-02-03T10:00:00,Ada Lovelace,GB,1",),
    5: (
        "900002,2026-05-06T11:30:00,Alan Turing,GB,2,19.90,true,a comma, that nobody quoted",
        "900003,2026-05-07T09:15:00,Grace Hopper,US,1,12.50,true,late,and,far,too,long",
    ),
    8: ("Total: 20000 orders",),
}


def write_demo_tables(folder: Path) -> list[Path]:
    """Write the ten files into `folder`, the same bytes every time.

    Returns:
        The paths, in order. File k holds `ROWS_PER_FILE` good rows and the rows of `BAD_ROWS[k]`, if any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(FILES):
        path = folder / f"orders-2026-{number + 1:02d}.csv"
        path.write_text("\n".join(_lines(number)) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def _lines(number: int) -> list[str]:
    rng = random.Random(number)  # the same rows on every machine
    lines = [COLUMNS]
    for row in range(ROWS_PER_FILE):
        order = number * ROWS_PER_FILE + row
        day, minute = 1 + row % 28, row % 1440
        comment = '"said ""thank you"", twice"' if row % 97 == 0 else ""
        lines.append(
            f"{order},2026-{number + 1:02d}-{day:02d}T{minute // 60:02d}:{minute % 60:02d}:00,"
            f"Customer {rng.randrange(5_000)},{rng.choice(COUNTRIES)},{rng.randint(1, 9)},"
            f"{rng.randint(100, 99_999) / 100:.2f},{'true' if rng.random() < 0.9 else 'false'},{comment}"
        )
    bad = BAD_ROWS.get(number, ())
    for position, line in enumerate(bad, start=1):
        lines.insert(position * len(lines) // (len(bad) + 1), line)
    return lines
