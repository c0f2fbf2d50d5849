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
        ("max_rejects", ""),
        ("max_rejects", "-1"),
        ("max_rejects", "five"),
        ("max_rejects", "2.5"),
        ("max_rejects", "5.%"),
        ("max_rejects", "100.1%"),
        ("max_rejects", "\u0665%"),  # a digit, but not of ASCII
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


@pytest.mark.parametrize("old", [25, 0, None, True, 2.5])
def test_a_limit_of_rejects_from_an_earlier_deployment_is_refused_with_advice(old: Any) -> None:
    """Numbers and null were the option's values before it became a text; the one sentence says to deploy again."""
    with pytest.raises(ValidationError) as caught:
        CsvOptions.model_validate({"max_rejects": old})
    [error] = caught.value.errors()
    assert error["msg"].endswith(f"and got {old!r}: deploy again with the new value")


@pytest.mark.parametrize(
    ("limit", "records", "most"),
    [
        ("5%", 0, 1),
        ("5%", 1, 1),
        ("5%", 19, 1),
        ("5%", 20, 1),
        ("5%", 39, 1),
        ("5%", 40, 2),
        ("5%", 1000, 50),
        ("5 %", 1000, 50),
        ("0.1%", 19, 1),
        ("0.1%", 20, 0),
        ("0.1%", 1000, 1),
        ("0%", 19, 0),
        ("0", 19, 0),
        ("0", 1000, 0),
        ("1", 5, 1),
        ("25", 1000, 25),
        ("25", 10**12, 25),
        ("100%", 2, 2),
        ("100%", 1000, 1000),
    ],
)
def test_a_limit_of_rejects_is_a_share_or_a_count(limit: str, records: int, most: int) -> None:
    """One more than the limit is too many; below 20 records one is allowed, unless none is."""
    options = CsvOptions(max_rejects=limit)
    assert not options.too_many_rejects(most, records)
    assert options.too_many_rejects(most + 1, records) or most >= records > 1


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
    assert CsvOptions(workers=3, retry_failed=True, max_failed=1, max_rejects="9", chunksize=4).result_key() == key
    assert CsvOptions(codec="none").result_key() != key
    assert CsvOptions(null_values=("", "NA")).result_key() != key


def test_options_are_frozen() -> None:
    """They are shared by all workers."""
    with pytest.raises(ValidationError):
        CsvOptions().workers = 2
