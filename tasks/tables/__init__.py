"""CSV files to Parquet: bytes, dialect, records, typed columns, and a row about everything that did not fit."""
