from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from prefect_fanout.tasks.tables.options import CsvOptions


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers", 0),
        ("workers", 1025),
        ("chunksize", 0),
        ("chunksize", "many"),
        ("max_failed", -1),
        ("max_rejects", -1),
        ("skip_lines", -1),
        ("delimiter", ""),
        ("delimiter", "::"),
        ("delimiter", '"'),
        ("delimiter", "\n"),
        ("delimiter", "é"),
        ("encoding", "klingon"),
        ("encoding", "hex"),
        ("codec", "gzip"),
        ("on_type_conflict", "ignore"),
        ("block_bytes", 4095),
        ("max_record_bytes", 0),
        ("separator", ","),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: Any) -> None:
    """When it is given, by name, before anything runs."""
    with pytest.raises(ValidationError, match=option):
        CsvOptions(**{option: value})


@pytest.mark.parametrize(
    ("given", "taken"), [("utf8", None), ("UTF-8-SIG", None), ("latin1", "iso8859-1"), ("cp1252", "cp1252")]
)
def test_encodings_have_one_name(given: str, taken: str | None) -> None:
    """So that another spelling is no other option."""
    assert CsvOptions(encoding=given).encoding == taken


def test_a_tab_may_be_written_as_shells_write_it() -> None:
    r"""`--delimiter '\t'` means a tab."""
    assert CsvOptions(delimiter="\\t").delimiter == "\t"


def test_only_options_that_change_the_result_make_another_key() -> None:
    """A rerun with more workers skips what is done; one with another codec does not."""
    key = CsvOptions().result_key()
    assert CsvOptions(workers=3, retry_failed=True, max_failed=1, max_rejects=9, chunksize=4).result_key() == key
    assert CsvOptions(codec="none").result_key() != key
    assert CsvOptions(null_values=("", "NA")).result_key() != key


def test_options_are_frozen() -> None:
    """They are shared by all workers."""
    with pytest.raises(ValidationError):
        CsvOptions().workers = 2
