"""One CSV file to one Parquet file, and the row of the ledger that says what became of it.

What `ingest_file` promises:

1. Every record of the file is either a row of its Parquet file or a row of its rejects file. Both are counted by
   reading them back, the records are counted by where they end in the text; if the figures differ, nothing is kept.
2. A Parquet file appears under its name whole or not at all. The rejects are committed first, so data without its
   rejects never exists.
3. Memory is bounded by the block size, the longest record and the row group size, not by the file.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.run_directory import storage_failure
from prefect_fanout.tasks.tables.convert import REJECT_SCHEMA, parse, reject_rows, to_types
from prefect_fanout.tasks.tables.dialect import Dialect, detect
from prefect_fanout.tasks.tables.encoding import FALLBACK_ENCODINGS, NotUtf8, TextSource
from prefect_fanout.tasks.tables.faults import FileFault
from prefect_fanout.tasks.tables.fingerprint import fingerprint
from prefect_fanout.tasks.tables.options import MIB, CsvOptions
from prefect_fanout.tasks.tables.records import RecordReader
from prefect_fanout.tasks.tables.row import Row, failed, new_row, printable
from prefect_fanout.tasks.tables.schema import dictionary_columns, infer_schema
from prefect_fanout.tasks.tables.sources import SourceFile
from prefect_fanout.tasks.tables.writer import ParquetFile

SAMPLE_BYTES = MIB
"""At least this much of a file is looked at for its dialect and its types, even with smaller blocks."""

PASSING_KINDS = ("changed", "vanished", "unreadable", "outside_folder")
"""Failures that are about the moment and not the content: without a fingerprint, any rerun tries such a file again."""

DATA_FOLDER, REJECTS_FOLDER = "data", "rejects"


@task(name="ingest-csv-file", cache_policy=NO_CACHE, persist_result=False)
def ingest_csv_file(source: SourceFile, run: str, options: CsvOptions, overlap: bool = False) -> Row:
    """Ingest one file: `ingest_file` as a Prefect task."""
    return ingest_file(source, Path(run), options, overlap=overlap)


def ingest_file(source: SourceFile, run: Path, options: CsvOptions, *, overlap: bool = False) -> Row:
    """Ingest one file into a run directory.

    Args:
        source: The file.
        run: The run directory.
        options: What the user chose.
        overlap: Encode in a second thread: worth it when there are fewer files than cores.

    Returns:
        A row for the ledger. A file that cannot be ingested as a whole is a row with the status "failed".

    Raises:
        RunFailed: The counts do not reconcile, or the disk refused.
    """
    clock = time.perf_counter()
    row = new_row(source, options)
    work = _FileIngest(source, run, options, overlap=overlap)
    try:
        row |= work.run() | {"status": "ok"}
    except FileFault as fault:
        row = failed(row | work.known, fault.kind, fault.message)
        if fault.kind not in PASSING_KINDS:
            with contextlib.suppress(OSError):  # it went just now
                row |= fingerprint(source.path, source.within)
    except (OSError, pa.ArrowException) as error:
        raise storage_failure(f"The Parquet file for {source.source}", work.data_path, error) from error
    row["seconds"] = time.perf_counter() - clock
    return row


def reconcile(source: str, *, rows_in: int, rows_out: int, rejected: int, text_bytes: int, cut_bytes: int) -> None:
    """Raise unless every record and every byte of a file is accounted for.

    Args:
        source: The file, for the message.
        rows_in: Records by their ends in the text.
        rows_out: Rows read back from the Parquet file.
        rejected: Rows read back from the rejects file.
        text_bytes: Bytes of text that were read.
        cut_bytes: Bytes of text that were cut into records.

    Raises:
        RunFailed: The figures differ.
    """
    if rows_in == rows_out + rejected and text_bytes == cut_bytes:
        return
    raise RunFailed(
        f"The counts of {source} do not reconcile: {rows_in} records in {text_bytes} bytes of text were read, "
        f"{rows_out} rows and {rejected} rejects were written, {cut_bytes} bytes were cut into records. Nothing of "
        "this file was kept. Please report it; this is a defect of the ingest, not of the file."
    )


@dataclass(frozen=True)
class _Widen(Exception):
    """Columns that have to be read as text after all."""

    columns: frozenset[str]


class _FileIngest:
    """The work on one file; `known` is what was found out about it so far, for the ledger."""

    def __init__(self, source: SourceFile, run: Path, options: CsvOptions, *, overlap: bool) -> None:
        self._source = source
        self._run = run
        self._options = options
        self._overlap = overlap
        name = f"{source.output_name}.parquet"
        self.data_path = run / DATA_FOLDER / name
        self.rejects_path = run / REJECTS_FOLDER / name
        self.known: dict[str, Any] = {}
        self._first_reject = ""
        self._fallback = options.encoding if options.encoding in FALLBACK_ENCODINGS else None
        self._encoding = None if self._fallback else options.encoding

    def run(self) -> dict[str, Any]:
        """Read the file once, or twice if columns turn out to be text; commit what was made of it."""
        for path in (self.data_path, self.rejects_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        as_text: frozenset[str] = frozenset()
        while True:
            try:
                return self._read(as_text)
            except NotUtf8:
                self._encoding, self._fallback, as_text = self._fallback, None, frozenset()
            except _Widen as widen:
                as_text |= widen.columns

    def _read(self, as_text: frozenset[str]) -> dict[str, Any]:
        options = self._options
        with contextlib.ExitStack() as stack:
            path, within = self._source.path, self._source.within
            text = stack.enter_context(TextSource(path, self._encoding, fallback=self._fallback, within=within))
            self.known |= {"encoding": text.encoding, "compression": text.compression}
            wanted = max(options.block_bytes, SAMPLE_BYTES)
            sample = text.read(wanted)
            dialect = detect(
                sample,
                final=len(sample) < wanted,
                delimiter=options.delimiter,
                header=options.header,
                skip_lines=options.skip_lines,
            )
            if dialect is None:
                return self._empty(text, sample, complete=len(sample) < wanted)
            reader = RecordReader(
                text,
                delimiter=ord(dialect.delimiter),
                block_bytes=options.block_bytes,
                max_record_bytes=options.max_record_bytes,
                head=sample[dialect.skipped_bytes :],
                head_is_all=len(sample) < wanted,
                offset=dialect.skipped_bytes,
                first_line=dialect.skipped_lines + 1,
            )
            del sample
            data, rejects = self._convert(stack, reader, dialect, as_text)
            return self._commit(text, reader, dialect, data, rejects, as_text)

    def _convert(
        self, stack: contextlib.ExitStack, reader: RecordReader, dialect: Dialect, as_text: frozenset[str]
    ) -> tuple[ParquetFile, ParquetFile | None]:
        options = self._options
        data: ParquetFile | None = None
        rejects: ParquetFile | None = None
        conflicts: set[str] = set()
        for number, chunk in enumerate(reader):
            parsed = parse(chunk, dialect, options.null_values, skip_first=number == 0 and options.header)
            misfits = parsed.rejects
            if data is None and parsed.text.num_rows:
                data = self._open_data(stack, infer_schema(dialect.names, parsed.text, as_text), parsed.text)
            if data is not None:
                # columns in conflict are text from here on: nothing more is to be learned about them
                table, failed_casts, columns = to_types(parsed, _with_text(data.schema, conflicts))
                if options.on_type_conflict == "string":
                    conflicts.update(columns)
                misfits = misfits + failed_casts
                if not conflicts:
                    data.write(table)
            if conflicts or not misfits:
                continue  # with conflicts, the rest is only read to find all of them
            if rejects is None:
                first = min(misfits, key=lambda misfit: misfit.record)
                self._first_reject = f"line {chunk.line_of(first.record)}: {first.message}"
                rejects = stack.enter_context(ParquetFile(self.rejects_path, REJECT_SCHEMA, codec=options.codec))
            rejects.write(reject_rows(printable(self._source.source), chunk, misfits, header=options.header))
        if conflicts:
            raise _Widen(frozenset(conflicts))
        if data is None:
            data = self._open_data(stack, pa.schema([pa.field(name, pa.string()) for name in dialect.names]), None)
        return data, rejects

    def _open_data(self, stack: contextlib.ExitStack, schema: pa.Schema, text: pa.Table | None) -> ParquetFile:
        repeating = [] if text is None else dictionary_columns(text, schema)
        return stack.enter_context(
            ParquetFile(self.data_path, schema, codec=self._options.codec, dictionary=repeating, overlap=self._overlap)
        )

    def _commit(
        self,
        text: TextSource,
        reader: RecordReader,
        dialect: Dialect,
        data: ParquetFile,
        rejects: ParquetFile | None,
        as_text: frozenset[str],
    ) -> dict[str, Any]:
        rows_in = reader.records - (1 if self._options.header else 0)
        rows_out = data.close()
        rejected = rejects.close() if rejects else 0
        reconcile(
            self._source.source,
            rows_in=rows_in,
            rows_out=rows_out,
            rejected=rejected,
            text_bytes=text.text_bytes,
            cut_bytes=reader.offset,
        )
        self.known |= self._fingerprint(text)
        if rejects:
            rejects.commit()
        else:
            self.rejects_path.unlink(missing_ok=True)  # of an earlier content of the file
        self.known |= {
            "rejects_path": f"{REJECTS_FOLDER}/{self.rejects_path.name}" if rejects else None,
            "rows_in": rows_in,
            "rows_out": 0,
            "rejected": rejected,
            "blank_lines": reader.blank,
            "delimiter": dialect.delimiter,
        }
        if self._options.too_many_rejects(rejected, rows_in):
            self.data_path.unlink(missing_ok=True)  # as above
            raise FileFault(
                "too_many_rejects",
                f"{rejected:,} of {rows_in:,} records of {self._source.source} do not fit "
                f"({100 * rejected / rows_in:.3g}%), and max_rejects allows {self._options.max_rejects}. The first: "
                f"{self._first_reject}. Its rejects are kept, its table is not. Correct the file or raise max_rejects.",
            )
        data.commit()
        notes: dict[str, object] = dict.fromkeys(dialect.notes, True)
        if dialect.renamed:
            notes["renamed_columns"] = dict(dialect.renamed)
        if as_text:
            notes["widened_to_text"] = sorted(as_text)
        return {
            **self.known,
            "path": f"{DATA_FOLDER}/{self.data_path.name}",
            "rows_out": rows_out,
            "columns": json.dumps({field.name: str(field.type) for field in data.schema}, ensure_ascii=False),
            "notes": json.dumps(notes, ensure_ascii=False),
        }

    def _fingerprint(self, text: TextSource) -> dict[str, Any]:
        """What a rerun compares, provided that the file is still the one that was read."""
        try:
            now = fingerprint(self._source.path, self._source.within)
        except OSError as error:
            raise FileFault("vanished", f"{self._source.source} could not be read again: {error}.") from error
        if (now["bytes_in"], now["mtime_ns"]) != (text.bytes_in, text.mtime_ns):
            raise FileFault(
                "changed",
                f"{self._source.source} changed while it was read ({text.bytes_in} bytes were read, it now has "
                f"{now['bytes_in']}). Run again when nothing writes to it any more.",
            )
        return now | {"sha256": text.sha256}

    def _empty(self, text: TextSource, sample: bytes, *, complete: bool) -> dict[str, Any]:
        """A file without any record: no columns, so no Parquet file either."""
        if not complete:
            raise FileFault("no_header", f"{self._source.source} begins with {len(sample)} bytes without a record.")
        fingerprint = self._fingerprint(text)
        for path in (self.data_path, self.rejects_path):
            path.unlink(missing_ok=True)
        counts = dict.fromkeys(("rows_in", "rows_out", "rejected"), 0)
        return {**self.known, **fingerprint, **counts, "notes": json.dumps({"empty": True})}


def _with_text(schema: pa.Schema, columns: Collection[str]) -> pa.Schema:
    """The schema with some of its columns as text."""
    return pa.schema([field.with_type(pa.string()) if field.name in columns else field for field in schema])
