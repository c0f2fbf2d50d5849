"""What the `fanout` command writes: the live bar, the summary, the errors.

The summary goes to standard output, everything else to standard error. Where they are not a terminal there is no bar,
and the summary is one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

FAILURES_SHOWN = 10  # enough to see what is wrong; the ledger has them all
REFRESHES_PER_S = 8


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failed item, for a person: which one, what kind of failure, and the sentence from the ledger."""

    item: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run came to.

    Attributes:
        run: The run directory.
        counts: Numbers of items by what became of them, and of whatever else the pipeline counts, in the order to show.
        failures: Failed items per kind of failure.
        examples: The first failed items.
        seconds: Wall time of the run.
    """

    run: Path
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    examples: Sequence[Failure]
    seconds: float

    def line(self) -> str:
        """The summary as one line of plain text."""
        parts = [f"{number:,} {name}" for name, number in self.counts.items()]
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in self.failures.items())
        return f"{self.run}: {', '.join(parts)}{f' ({kinds})' if kinds else ''}, {self.seconds:.1f} s"


class Bar:
    """The live bar of one run; its three numbers are set from the pipeline's progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: int, failed: int, total: int | None) -> None:
        """Show that `done` items of `total` (None: not known yet) are finished, `failed` of them without success."""
        self._progress.update(self._task, completed=done, total=total, failed=failed)


class _CountColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}/{total}", style="bold")


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s", style="cyan")


class _FailedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        failed = int(task.fields["failed"])
        return Text(f"{failed:,} failed", style="red" if failed else "dim")


class Terminal:
    """Standard output and standard error of the command."""

    def __init__(self) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(highlight=False, soft_wrap=True, stderr=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner with `text` while the block runs."""
        if not self.err.is_terminal:
            yield
            return
        with self.err.status(Text(text, style="dim")):
            yield

    @contextmanager
    def bar(self, title: str) -> Iterator[Bar]:
        """Show the live bar while the block runs: done, failed, rate, time left."""
        with Progress(
            SpinnerColumn(finished_text="[green]✔[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            _CountColumn(),
            _FailedColumn(),
            _RateColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.err,
            disable=not self.err.is_terminal,
            refresh_per_second=REFRESHES_PER_S,
        ) as progress:
            yield Bar(progress, progress.add_task(title, total=None, failed=0))

    def heading(self, text: str) -> None:
        """Write a bold line above what follows; nothing where there is no terminal."""
        if self.out.is_terminal:
            self.out.print()
            self.out.print(Text(text, style="bold"))

    def note(self, text: str) -> None:
        """Write a quiet line; nothing where there is no terminal."""
        if self.out.is_terminal:
            self.out.print(Text(text, style="dim"))

    def finished(self, finished: Finished) -> None:
        """Write what a run came to: a few lines on a terminal, one line elsewhere."""
        if not self.out.is_terminal:
            self.out.print(Text(finished.line()))
            return
        line = Text("  ")
        for position, (name, number) in enumerate(finished.counts.items()):
            style = "green" if name == "ok" and number else "red" if name in ("failed", "rejected") and number else ""
            line.append("  " if position else "").append(f"{number:,}", style=f"bold {style}").append(f" {name}", style)
        self.out.print(line.append(f"  in {finished.seconds:.1f} s", style="dim"))
        if finished.examples:
            self.out.print(Padding(_failure_table(finished.examples), (0, 0, 0, 2)))
        hidden = sum(finished.failures.values()) - len(finished.examples)
        if hidden > 0:
            kinds = ", ".join(f"{kind} {number:,}" for kind, number in finished.failures.items())
            self.out.print(Text(f"  and {hidden:,} more; all by kind: {kinds}", style="dim"))

    def places(self, places: Mapping[str, Path]) -> None:
        """Write where things are, one per line; nothing where there is no terminal."""
        if not self.out.is_terminal:
            return
        width = max(map(len, places))
        for name, path in places.items():
            self.out.print(Text(f"  {name:<{width}}  ", style="dim").append(str(path), style="default"))

    def success(self, text: str) -> None:
        """Write the good news at the end."""
        self.out.print()
        self.out.print(Text("✔ ", style="bold green").append(text, style="default"))

    def error(self, text: str) -> None:
        """Write what went wrong and what to do to standard error."""
        self.err.print(Text("fanout: ", style="bold red").append(text, style="default"))


def _failure_table(failures: Sequence[Failure]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="red", no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=48)
    table.add_column(style="dim", overflow="fold")
    for failure in failures:
        table.add_row(failure.kind, Text(failure.item), Text(failure.reason))
    return table
