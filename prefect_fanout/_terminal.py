"""What the `fanout` command writes: the live bar, the summary, the errors.

The summary goes to standard output, everything else to standard error. Where they are not a terminal there is no bar,
and the summary is one line. URLs, file names and errors come from others: no control character of theirs is written,
for a terminal would obey it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

from prefect_fanout._errors import MESSAGE_CHARS
from prefect_fanout._finished import Finished, counted
from prefect_fanout._text import shown_lines, shown_text

REFRESHES_PER_S = 8
LINE_CHARS = 10_000  # of a run's summary: a path of 4,096 characters, and counts
PLACE_WIDTH = 40  # leaves half of a usual terminal for the reason


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
    """Standard output and standard error of the command.

    Args:
        talks: Whether standard output gets the whole story or one line per run; None asks whether it is a terminal.
    """

    def __init__(self, *, talks: bool | None = None) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self.talks = self.out.is_terminal if talks is None else talks
        self.err = Console(highlight=False, soft_wrap=True, stderr=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner with `text` while the block runs."""
        if not self.err.is_terminal:
            yield
            return
        with self.err.status(Text(shown_text(text), style="dim")):
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
            yield Bar(progress, progress.add_task(shown_text(title), total=None, failed=0))

    def heading(self, text: str) -> None:
        """Write a bold line above what follows; nothing where one line per run is enough."""
        if self.talks:
            self.out.print()
            self.out.print(Text(shown_text(text), style="bold"))

    def note(self, text: str) -> None:
        """Write a quiet line; nothing where one line per run is enough."""
        if self.talks:
            self.out.print(Text(shown_lines(text, MESSAGE_CHARS), style="dim"))

    def finished(self, finished: Finished) -> None:
        """Write what a run came to: a few lines, or one; notes of the run go to standard error."""
        for note in finished.notes:
            self.err.print(
                Text("note: ", style="bold yellow").append(shown_lines(note, MESSAGE_CHARS), style="default")
            )
        if not self.talks:
            self.out.print(Text(shown_text(finished.line(), LINE_CHARS)))
            return
        line = Text("  ")
        for position, (name, number) in enumerate(finished.counts.items()):
            style = "green" if name == "ok" and number else "red" if name in ("failed", "rejected") and number else ""
            line.append("  " if position else "").append(f"{number:,}", style=f"bold {style}").append(
                f" {shown_text(counted(name, number))}", style
            )
        self.out.print(line.append(f"  in {finished.seconds:.1f} s", style="dim"))
        self.table([(failure.kind, failure.item, failure.reason) for failure in finished.examples])
        hidden = sum(finished.failures.values()) - len(finished.examples)
        if hidden > 0:
            kinds = shown_text(finished.kinds(), LINE_CHARS)
            self.out.print(Text(f"  and {hidden:,} more; all by kind: {kinds}", style="dim"))

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Write what went wrong, one row each: kind, place, reason; nothing where one line per run is enough."""
        if not self.talks or not rows:
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="red", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(style="dim", overflow="fold")
        for kind, place, reason in rows:
            # As Text: rich would take a plain string for its own markup, which can make links.
            texts = (shown_text(kind), shown_text(_end_of(place, PLACE_WIDTH)), shown_text(reason))
            table.add_row(*map(Text, texts))
        self.out.print(Padding(table, (0, 0, 0, 2)), soft_wrap=False)

    def places(self, places: Sequence[tuple[str, Path]]) -> None:
        """Write where things are, one per line; nothing where one line per run is enough."""
        if not self.talks:
            return
        width = max(len(name) for name, _ in places)
        for name, path in places:
            self.out.print(
                Text(f"  {name:<{width}}  ", style="dim").append(shown_text(path, LINE_CHARS), style="default")
            )

    def success(self, text: str) -> None:
        """Write the good news at the end."""
        self.out.print()
        self.out.print(Text("✔ ", style="bold green").append(shown_text(text, LINE_CHARS), style="default"))

    def error(self, text: str) -> None:
        """Write what went wrong and what to do to standard error."""
        self.err.print(error_text(text))


def error_text(error: object) -> Text:
    """Return an error as the command writes it: after its own name, line breaks kept, nothing that a terminal obeys."""
    return Text("fanout: ", style="bold red").append(shown_lines(error, MESSAGE_CHARS), style="default")


def _end_of(text: str, width: int) -> str:
    """The text, or its end where names differ, when it is longer than `width`."""
    return text if len(text) <= width else "…" + text[1 - width :]
