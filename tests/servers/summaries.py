"""Summaries of runs that never were, and texts that try to be more than text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from prefect_fanout import TimelineEntry
from prefect_fanout.tasks.report import RunSummary

HOSTILE = [
    "https://x.org/a|b|c",
    "a\nb\r\n| --- |\n# heading",
    "`code` ```mermaid",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[link](javascript:alert(1)) ![image](http://evil/x.png)",
    "https://evil.example www.evil.example me@evil.example",
    "**bold** _it_ ~~no~~ \\| &lt; &#60;",
    "\u202egnp.exe \x00 \x1b[31m \udcff \u2028",
    "</title></style></svg><style>*{display:none}</style>",
    "x" * 10_000,
]

NOTHING: dict[str, Any] = {
    "counts": {},
    "failures": {},
    "timeline": [],
    "examples": [],
    **dict.fromkeys(("seconds", "bytes_read", "items", "skipped"), 0),
}
"""What an empty list comes to."""


def span(number: int, worker: int, started: float, ended: float, items: int = 10) -> TimelineEntry:
    """Make one task run."""
    name = f"download[{number}:{number + items}]"
    return TimelineEntry(
        name=name, worker=f"download_{worker}", queued=started - 1, started=started, ended=ended, items=items
    )


def timeline(runs: int, workers: int) -> list[TimelineEntry]:
    """Make task runs of a second each, one after the other on each worker."""
    return [
        span(number, number % workers, begin := 1.7e9 + number // workers, begin + 1 - 0.001 * (number % 7))
        for number in range(runs)
    ]


def summary(run: Path, **changes: Any) -> RunSummary:
    """Make a summary with some of everything."""
    usual = RunSummary(
        title="Images of urls.txt",
        pipeline="download-images",
        run=run,
        counts={"ok": 1_200, "failed": 4},
        failures={"http_4xx": 3, "dns": 1},
        seconds=12.0,
        bytes_read=3_000_000,
        items=1_204,
        skipped=4,
        timeline=timeline(6, 2),
        examples=[
            {"index": 3, "url": "https://x.org/3.jpg", "error_kind": "http_4xx", "error": "The server answered 404."},
            {"index": 9, "url": "https://x.org/9.jpg", "error_kind": "dns", "error": "No such host."},
        ],
    )
    return dataclasses.replace(usual, **changes)


def tables(markdown: str) -> list[list[list[str]]]:
    """Give the text of the cells of all tables, as a reader of GitHub's Markdown sees them."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 3:
            for child in token.children or []:
                assert child.type in ("text", "text_special", "code_inline"), child
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found
