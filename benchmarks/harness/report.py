"""What a benchmark prints: tables, ratios pair by pair, verdicts; and the same as a section of a Markdown file."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness.process import BenchmarkError

MISSED = 1
CANNOT_RUN = 2
GIB = 1024**3


@dataclass(frozen=True)
class Spread:
    """Lowest, median and highest of some values: of ratios taken pair by pair, or of repeated measures."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of one or more values."""
        known = sorted(values)
        return cls(known[0], statistics.median(known), known[-1])

    def text(self, digits: int = 2, unit: str = "") -> str:
        """For example `1.52 (1.48 to 1.61)`."""
        low, median, high = (f"{value:,.{digits}f}" for value in (self.low, self.median, self.high))
        return f"{median}{unit} ({low} to {high})"


@dataclass(kw_only=True)
class Report:
    """Collects what a benchmark has found, and shows it.

    Attributes:
        name: The benchmark; the section of the Markdown file has this name.
        markdown: The Markdown file, or None.
        missed: The targets that were missed.

    Raises:
        BenchmarkError: The Markdown file has no such section. Better now than after the measurements.
    """

    name: str
    markdown: Path | None
    missed: list[str] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.markdown is not None:
            self._around()

    def say(self, text: str) -> None:
        """Show how far the benchmark is. Not part of the Markdown."""
        print(text, flush=True)

    def paragraph(self, text: str) -> None:
        """Show a sentence or two."""
        print(f"\n{text}", flush=True)
        if self._lines and self._lines[-1]:
            self._lines.append("")  # a list of verdicts would swallow it
        self._lines += [text, ""]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table; all columns but the first are right-aligned."""
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        print()
        for row in (head, ["-" * width for width in widths], *rows):
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            print("  ".join([row[0].ljust(widths[0]), *cells]))
        sys.stdout.flush()
        self._lines += [_markdown_row(head), _markdown_row(["---", *["---:"] * (len(head) - 1)])]
        self._lines += [*map(_markdown_row, rows), ""]

    def verdict(self, met: bool, text: str) -> None:
        """Show whether a target is met; one that is not makes `exit_code` 1."""
        line = f"{'met' if met else 'MISSED'}: {text}"
        print(line, flush=True)
        self._lines += [f"- {line}"]
        if not met:
            self.missed.append(text)

    @property
    def exit_code(self) -> int:
        """0 when every target is met, else 1."""
        return MISSED if self.missed else 0

    def write(self) -> None:
        """Put the report between the marks of its section in the Markdown file, where one was given."""
        if self.markdown is None:
            return
        head, tail = self._around()
        body = "\n".join(self._lines).strip()
        self.markdown.write_text(f"{head}\n{body}\n\n{tail}", encoding="utf-8")
        print(f"\nWritten to {self.markdown}.")

    def _around(self) -> tuple[str, str]:
        """What the Markdown file holds up to the section's first mark and from its last one on."""
        assert self.markdown is not None, "the callers have looked"
        begin, end = f"<!-- begin {self.name} -->\n", f"<!-- end {self.name} -->"
        try:
            text = self.markdown.read_text(encoding="utf-8")
        except OSError as error:
            raise BenchmarkError(f"--markdown should name a file that can be read: {error}") from error
        head, found_begin, rest = text.partition(begin)
        _, found_end, tail = rest.partition(end)
        if not (found_begin and found_end):
            raise BenchmarkError(
                f"{self.markdown} should hold the lines {begin.strip()!r} and {end!r}, between which the results go. "
                "Add them."
            )
        return head + begin, end + tail


def machine(packages: Iterable[str]) -> str:
    """This machine and the versions in use, in general words.

    Args:
        packages: Distributions of this environment to name.
    """
    memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB)
    named = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} cores, {memory} GB of memory, {platform.system()}, Python {sys.version.split()[0]}, {named}."
    )


def command_line() -> str:
    """The command that a person types for this run, without `--markdown`."""
    arguments = iter(sys.argv[1:])
    kept: list[str] = []
    for argument in arguments:
        if argument == "--markdown":
            next(arguments, None)
        elif not argument.startswith("--markdown="):
            kept.append(argument)
    script = Path(sys.argv[0]).resolve()
    return shlex.join(["python", f"{script.parent.name}/{script.name}", *kept])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
