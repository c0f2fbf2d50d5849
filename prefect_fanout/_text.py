"""Text from items, servers and files, made safe to show: for a line, for a few lines, and for Markdown."""

from __future__ import annotations

import traceback
import unicodedata
from string import punctuation

TEXT_CHARS = 300
"""Longest text of an item or an error that is shown, in characters."""

TRACEBACK_CHARS = 10_000
"""Longest traceback in a log, in characters: some fifty frames, and below the 25,000 that Prefect's server takes."""

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are replaced: control, invisible (also the direction of text), half a surrogate pair, ends
of lines and of paragraphs."""

_ESCAPES = str.maketrans({char: f"\\{char}" for char in punctuation if char not in ",()'\"/- "})


def shown_text(value: object, most: int = TEXT_CHARS) -> str:
    """Make one printable line of any text: control and direction characters are replaced, a long text is cut.

    Args:
        value: the text, or a value whose text is meant.
        most: longest result, in characters.
    """
    text = str(value)
    if len(text) > most:
        text = text[: most - 1] + "…"
    return "".join(
        " " if char in "\n\r\t" else char if _is_printable(char) else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def shown_lines(value: object, most: int) -> str:
    """Make any text printable as `shown_text` does, but keep its line breaks.

    Args:
        value: as for `shown_text`.
        most: longest result, in characters.
    """
    text = str(value)
    if len(text) > most:
        text = text[: most - 1] + "…"
    return "\n".join(shown_text(line, most) for line in text.split("\n"))


def traceback_text(error: BaseException | None) -> str:
    """Return the traceback of an error, for a log that a terminal may show: `shown_lines` of its last characters.

    Passed to a logger as `exc_info`, the error's text would be written as it is.
    """
    return shown_lines("".join(traceback.format_exception(error))[-TRACEBACK_CHARS:], TRACEBACK_CHARS)


def markdown_text(value: object) -> str:
    """Make one printable line that is plain text in Markdown, by CommonMark's backslash before punctuation.

    Prefect's UI still makes a link of a web address, which then leads where its text says.
    """
    return shown_text(value).translate(_ESCAPES)


def _is_printable(char: str) -> bool:
    return (char.isascii() and char.isprintable()) or unicodedata.category(char) not in _UNPRINTABLE
