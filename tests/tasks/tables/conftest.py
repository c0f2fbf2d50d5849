"""One call to ingest some bytes and look at everything that came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_fanout.tasks.tables.ingest import ingest_file
from prefect_fanout.tasks.tables.options import CsvOptions
from prefect_fanout.tasks.tables.sources import find_sources


@dataclass(frozen=True)
class Ingested:
    """What became of one file."""

    row: dict[str, Any]
    run: Path

    @property
    def table(self) -> pa.Table:
        return pq.read_table(self.run / self.row["path"])

    @property
    def columns(self) -> dict[str, str]:
        return json.loads(self.row["columns"])

    @property
    def notes(self) -> dict[str, Any]:
        return json.loads(self.row["notes"])

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        table = self.table
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True)) if table.num_columns else []

    @property
    def rejects(self) -> list[dict[str, Any]]:
        if self.row["rejects_path"] is None:
            return []
        return pq.read_table(self.run / self.row["rejects_path"]).to_pylist()

    @property
    def left_behind(self) -> list[str]:
        """Every file in the run directory."""
        return sorted(str(path.relative_to(self.run)) for path in self.run.rglob("*") if path.is_file())


Ingest = Callable[..., Ingested]


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    """Write bytes to a file and ingest it; keyword arguments are options, and any number of rejects is allowed."""

    def ingest(content: bytes, *, name: str = "input.csv", overlap: bool = False, **options: Any) -> Ingested:
        path = tmp_path / name
        path.write_bytes(content)
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        [source] = find_sources(path)
        return Ingested(ingest_file(source, run, CsvOptions(**{"max_rejects": "100%"} | options), overlap=overlap), run)

    return ingest
