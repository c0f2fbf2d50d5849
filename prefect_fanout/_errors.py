"""The errors a user of prefect-fanout can meet: one base, few children."""

from __future__ import annotations

from prefect_fanout._text import shown_lines

MESSAGE_CHARS = 10_000
"""Longest text of an error, in characters: some screens. The longest that is meant ends with a server's log."""


class FanoutError(Exception):
    """Base of every error that prefect-fanout raises on its own account.

    Its text may name files and URLs of others. It keeps no control characters: terminals and logs show it as it is.
    """

    def __init__(self, *texts: object) -> None:
        super().__init__(*(shown_lines(text, MESSAGE_CHARS) for text in texts))


class UsageError(FanoutError, ValueError):
    """A parameter, a path or an input list cannot be used as it is.

    The text says what was expected, what was got and what to do. The `fanout` command exits with 2.
    """


class RunFailed(FanoutError, RuntimeError):
    """A run could not be finished, or its counts do not reconcile. The `fanout` command exits with 1."""


class AllItemsFailed(RunFailed):
    """A run finished and wrote everything, but every item of its input failed. The `fanout` command exits with 1."""


class TooManyFailures(FanoutError, RuntimeError):
    """A run finished and wrote everything, but more items failed than it allows.

    The `fanout` command exits with 3.
    """


def check_count(name: str, value: object, most: int, unit: str) -> None:
    """Raise a `UsageError` unless `value` is a whole number of `unit` from 1 to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(f"{name} must be a whole number of {unit} from 1 to {most:,}, got {value!r}.")
