"""What a user may choose about an ingest of CSV files."""

from __future__ import annotations

import codecs
import hashlib
import re
import sys
from fractions import Fraction
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

KIB = 1024
MIB = 1024 * KIB

Codec = Literal["zstd", "snappy", "none"]

BLOCK_BYTES = 4 * MIB
"""Bytes of text that are parsed at once. From 1 to 8 MiB the speed is the same within the noise, below and above it
falls; 4 MiB holds some 40,000 records of 100 bytes, enough to infer types from."""

MAX_RECORD_BYTES = 32 * MIB
"""The longest record that is accepted, and so the most that an unterminated quote can swallow."""

MAX_REJECTS = re.compile(r"[0-9]+|[0-9]+(\.[0-9]+)?%")
"""A count, or a share in percent."""

FEW_RECORDS = 20
"""Below so many records one reject, such as a line of totals, is more than the default share of 5 % and allowed."""

RESULT_FIELDS = (
    "delimiter",
    "encoding",
    "header",
    "codec",
    "on_type_conflict",
    "null_values",
    "skip_lines",
    "block_bytes",
    "max_record_bytes",
)
"""The options that change what is written for a file: when one of them differs, a rerun does the file again."""


class CsvOptions(BaseModel):
    """Options of one ingest; the defaults fit comma-separated UTF-8 with a header.

    Args:
        workers: Files ingested at once; None is one per processor core.
        chunksize: Files per task run. "auto" is one, so that the UI shows each file; more pays with thousands of
            small files.
        max_failed: More failed files than this end the run with an error once everything is written; None never does.
        retry_failed: Ingest again the files that failed in an earlier run of the same run directory.
        fresh: Forget what earlier runs left in the run directory.
        follow_links: Read also matches of a pattern that lead out of the pattern's folder. Everybody who can write to
            the folder can then have every file read that the user of the run may read.
        delimiter: One ASCII character; None finds out which of comma, semicolon, tab and bar each file uses.
        encoding: Encoding of files that are not UTF-8 and have no byte order mark; None rejects their text. UTF-8 files
            with a few damaged records are UTF-8. An encoding that is neither single-byte nor East Asian, such as
            utf-16-le, is used for all files without a mark.
        header: Whether the first record names the columns; if not they are called column_1, column_2, and so on.
        skip_lines: Physical lines before the header that do not belong to the table.
        codec: Compression of the Parquet files. zstd writes files a quarter to a third smaller than snappy for about
            a tenth more time, measured on a table of numbers, dates, categories and free text.
        null_values: Unquoted texts that mean "no value". A quoted text is never null in a string column.
        on_type_conflict: What becomes of a cell that does not fit the type found in the first block of its file:
            "reject" puts its record among the rejects, "string" reads the file again with that column as text.
        max_rejects: Rejected records that a file may have, as a share of its records ("5%") or as a count ("25"). A
            file with more is a failed item: its rejects are kept, its table is not. Below 20 records one reject is
            always allowed, except by "0" and "0%", which allow none; "100%" allows all.
        block_bytes: Bytes of text parsed at once.
        max_record_bytes: The longest record that is accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(default=None, ge=1, le=1024)
    chunksize: int | Literal["auto"] = "auto"
    max_failed: int | None = Field(default=None, ge=0)
    retry_failed: bool = False
    fresh: bool = False
    follow_links: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    header: bool = True
    skip_lines: int = Field(default=0, ge=0, le=1000)
    codec: Codec = "zstd"
    null_values: tuple[str, ...] = ("",)
    on_type_conflict: Literal["reject", "string"] = "reject"
    max_rejects: str = "5%"
    block_bytes: int = Field(default=BLOCK_BYTES, ge=4 * KIB, le=256 * MIB)
    max_record_bytes: int = Field(default=MAX_RECORD_BYTES, ge=4 * KIB, le=512 * MIB)

    @field_validator("chunksize")
    @classmethod
    def _chunksize_in_range(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f'chunksize is the number of files per task run, 1 or more, or "auto"; got {value}')
        return value

    @field_validator("max_rejects", mode="before")
    @classmethod
    def _max_rejects_is_text(cls, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(
                f'max_rejects is now a text, a share such as "5%" or a count such as "25", and got {value!r}: '
                "deploy again with the new value"
            )
        text = value.replace(" ", "")
        if not MAX_REJECTS.fullmatch(text) or Fraction(text.rstrip("%")) > (100 if text.endswith("%") else sys.maxsize):
            raise ValueError(f'max_rejects is a share up to "100%" or a count such as "25"; got {value!r}')
        return text

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_one_character(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value == "\\t":  # what a shell passes for a tab
            return "\t"
        if len(value) != 1 or not value.isascii() or value in '"\r\n\0':
            raise ValueError(f"a delimiter is one ASCII character other than a quote or a line end; got {value!r}")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            name = codecs.lookup(value).name
            "".encode(name)  # codecs such as hex or zip are no text encodings
        except LookupError as error:
            raise ValueError(f"{value!r} is no text encoding that Python knows; try utf-8, cp1252 or utf-16") from error
        return None if name in ("utf-8", "utf-8-sig", "ascii") else name

    def too_many_rejects(self, rejected: int, records: int) -> bool:
        """Return whether a file with so many rejected records, of so many in all, fails."""
        share = self.max_rejects.endswith("%")
        limit = Fraction(self.max_rejects.rstrip("%"))
        if limit and records < FEW_RECORDS and rejected <= 1:
            return False
        return rejected > (limit * records / 100 if share else limit)

    def result_key(self) -> str:
        """A short digest of the options that change what is written for a file."""
        chosen = self.model_dump_json(include=set(RESULT_FIELDS))
        return hashlib.sha256(chosen.encode()).hexdigest()[:16]
