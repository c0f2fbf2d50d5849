"""What can be wrong with a file or with one of its records, by name."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record went to the rejects instead of the table."""

    CAST = "cast"
    TOO_FEW_FIELDS = "too_few_fields"
    TOO_MANY_FIELDS = "too_many_fields"
    INVALID_UTF8 = "invalid_utf8"
    UNTERMINATED_QUOTE = "unterminated_quote"
    STRAY_QUOTE = "stray_quote"
    RECORD_TOO_LONG = "record_too_long"
    REPEATED_HEADER = "repeated_header"


class FileFault(Exception):
    """A file that cannot be ingested as a whole; it becomes a failed row of the ledger, and the run goes on.

    Args:
        kind: A short slug for counting, such as ``truncated_gzip``.
        message: A sentence for a person: what was expected, what was got, what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message
