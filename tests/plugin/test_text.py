"""Texts of others, made safe to show: one line, some lines, an error, a traceback."""

from __future__ import annotations

import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_fanout._errors import MESSAGE_CHARS, FanoutError, RunFailed, TooManyFailures, UsageError
from prefect_fanout._text import TEXT_CHARS, shown_lines, shown_text, traceback_text

ANY_TEXT = st.text(st.characters(codec=None))


def obeyed(text: str) -> list[str]:
    """List the characters that a terminal would obey, line breaks aside."""
    return [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") and char != "\n"]


@given(ANY_TEXT)
def test_any_text_is_one_printable_line_or_keeps_its_breaks(text: str) -> None:
    """No control character is left; `shown_lines` keeps the line breaks, and only them."""
    line, lines = shown_text(text), shown_lines(text, 1_000)
    assert not obeyed(line)
    assert "\n" not in line
    assert not obeyed(lines)
    assert lines.count("\n") == text.count("\n")
    assert shown_lines(lines, 1_000) == lines, "what was shown once is shown as it is"


@pytest.mark.parametrize("length", [0, 1, 2, TEXT_CHARS, TEXT_CHARS + 1, 10 * TEXT_CHARS])
def test_a_long_text_is_cut(length: int) -> None:
    """A text within the limit is whole, a longer one ends in an ellipsis at the limit."""
    whole = length <= TEXT_CHARS
    expected = "x" * length if whole else "x" * (TEXT_CHARS - 1) + "…"
    assert shown_text("x" * length) == shown_lines("x" * length, TEXT_CHARS) == expected


@pytest.mark.parametrize("kind", [FanoutError, UsageError, RunFailed, TooManyFailures])
def test_an_error_holds_no_escape_sequence(kind: type[FanoutError]) -> None:
    """A file name in an error reaches no terminal and no log as a command; its lines stay, also between processes."""
    error = kind("a\x1b]0;PWNED\x07.csv cannot be read.\nTry another." + "x" * MESSAGE_CHARS)
    assert str(error).startswith("a\ufffd]0;PWNED\ufffd.csv cannot be read.\nTry another.")
    assert len(str(error)) == MESSAGE_CHARS
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(kind()) == ""


def test_a_traceback_in_a_log_holds_no_escape_sequence() -> None:
    """The frames and the error can be read, and the error's text commands no terminal."""
    try:
        raise ValueError("http://x/\x1b]0;PWNED\x07")
    except ValueError as error:
        text = traceback_text(error)
    assert "test_a_traceback_in_a_log" in text
    assert "ValueError: http://x/\ufffd]0;PWNED\ufffd" in text
    assert not obeyed(text)
