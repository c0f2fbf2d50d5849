"""The ledger's row for one URL of the list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from prefect_fanout.tasks.ledger import ledger_schema

KEY = "url_key"
"""Column that identifies an item across reruns: the URL in normal form, with its query or a digest of it."""

SCHEMA = ledger_schema(
    KEY,
    pa.field("url", pa.string()),
    pa.field("final_url", pa.string()),
    pa.field("http_status", pa.int32()),
    pa.field("content_type", pa.string()),
    pa.field("path", pa.string()),
    pa.field("sha256", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("format", pa.string()),
    pa.field("duplicate_of", pa.int64()),
)
"""`url` as it stands in the list, but without credentials, and without its query unless queries are kept; `path`
relative to the run directory; `duplicate_of` the `index` of the first."""

MAX_URL_SHOWN = 2_000
"""Characters of a URL that are kept in `url`: enough for every one that can be fetched in practice."""

Row = dict[str, Any]

_EMPTY: Row = dict.fromkeys(SCHEMA.names)


class Item:
    """One URL to fetch.

    An ordinary class: Prefect looks for futures inside dataclasses, models and tuples, for every item anew.

    Attributes:
        index: Position in the list, from 0.
        url: The URL for people, as the ledger's column `url`.
        key: The URL that identifies the item, as the ledger's column `url_key`.
        target: The URL in normal form that is requested.
    """

    __slots__ = ("index", "key", "target", "url")

    def __init__(self, index: int, url: str, key: str, target: str | None = None) -> None:
        """Args: target: None means that it is the key."""
        self.index = index
        self.url = url
        self.key = key
        self.target = key if target is None else target

    def __repr__(self) -> str:
        return f"Item({self.index}, {self.url!r})"


def new_row(index: int, url: str, key: str) -> Row:
    """A row that says nothing yet of what became of the item."""
    row = _EMPTY.copy()
    row.update(index=index, url=url[:MAX_URL_SHOWN], url_key=key, attempts=0, started=datetime.now(UTC), seconds=0.0)
    return row


def failed(row: Row, kind: str, message: str) -> Row:
    """Fills in a failure."""
    row.update(status="failed", error_kind=kind, error=message)
    return row
