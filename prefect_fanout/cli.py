"""The `fanout` command: both pipelines and the demo, for a person at a terminal or a script.

Exit codes: 0 all well, 1 the run failed or every item failed, 2 wrong usage, 3 finished, but more items failed than
`--max-failed` allows, 130 interrupted by SIGINT, 143 stopped by SIGTERM. The pipelines are imported only by the command
that runs them.
"""

from __future__ import annotations

import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import App, Group, Parameter

from prefect_fanout._connection import connect, quiet_prefect, suited_to
from prefect_fanout._errors import AllItemsFailed, FanoutError, TooManyFailures, UsageError
from prefect_fanout._finished import Finished, read_finished
from prefect_fanout._terminal import Terminal, error_text

if TYPE_CHECKING:
    from pydantic import BaseModel

    Options = TypeVar("Options", bound=BaseModel)

EXIT_OK = 0
EXIT_RUN_FAILED = 1
EXIT_USAGE = 2
EXIT_TOO_MANY_FAILURES = 3
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as a shell reports a program that a signal ended
EXIT_TERMINATED = 128 + signal.SIGTERM

# The terminal wraps paragraphs, so each is one line here; examples keep below 80 columns.
HELP = (
    "Download images or turn CSV files into Parquet, through Prefect, with one ledger row per item.\n\n"
    "Every run owns a folder (--out). It holds the data, ledger.parquet with one row per item, report.html and, once "
    "everything is done, run.json. Give the same folder again to go on where a run stopped."
)

DEMO_EXAMPLES = """    fanout demo                                       no internet needed
"""
IMAGES_EXAMPLES = """    fanout images urls.txt --out pictures             one URL per line
    fanout images urls.parquet --url-column link --out pictures --workers 64
    fanout images urls.txt --out pictures --retry-failed
"""
CSV_EXAMPLES = """    fanout csv 'exports/*.csv' more.csv.gz --out tables
"""
EXIT_CODES = """Exit codes:

    0    all well
    1    the run failed, or every item of it failed
    2    wrong usage
    3    finished, but more items failed than --max-failed allows
    130  interrupted (SIGINT, Ctrl-C); what was finished is kept
    143  stopped (SIGTERM); what was finished is kept
"""
SERVER = "The server at PREFECT_API_URL records the runs; without one, the command starts one that ends with it."


def _epilogue(*examples: str) -> str:
    return "\n".join(("Examples:", "", *(text.rstrip() for text in examples), "", EXIT_CODES, SERVER))


app = App(
    name="fanout",
    help=HELP,
    help_epilogue=_epilogue(DEMO_EXAMPLES, IMAGES_EXAMPLES, CSV_EXAMPLES),
    help_format="plaintext",
    version=lambda: version("prefect-fanout"),
    suppress_keyboard_interrupt=False,  # main() has something to say then
    error_formatter=error_text,  # cyclopts repeats an argument as it is, and a pattern may have made it of a file name
)
COMMON = Group("Options of every run", sort_key=1)
IMAGES = Group("Options for images", sort_key=0)
CSV = Group("Options for csv", sort_key=0)


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What both pipelines let a user choose; the names are those of their options."""

    workers: int | None = None
    """Items worked on at the same time. [default: 16 for images, one per CPU for csv]"""

    chunksize: Annotated[int | Literal["auto"] | None, Parameter(show_choices=False)] = None
    """Items per Prefect task run; "auto" aims at runs of a few seconds. [default: auto for images, 1 for csv]"""

    max_failed: int = 0
    """More failed items than this make the exit code 3, when everything is written. If all items failed it is 1."""

    retry_failed: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Work once more on the items that failed in an earlier run in this folder."""

    fresh: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Remove the results of earlier runs in this folder and start anew; your own files in it stay."""


DEFAULTS = RunOptions()


@app.command(help_epilogue=_epilogue(IMAGES_EXAMPLES))
def images(
    urls: str,
    /,
    *,
    out: Path,
    client: Annotated[Literal["auto", "requests", "curl"], Parameter(group=IMAGES)] = "auto",
    allow_private: Annotated[bool, Parameter(group=IMAGES, negative="", show_default=False)] = False,
    allow_unresolved: Annotated[bool, Parameter(group=IMAGES, negative="", show_default=False)] = False,
    url_column: Annotated[str, Parameter(group=IMAGES)] = "url",
    keep_queries: Annotated[bool, Parameter(group=IMAGES)] = True,
    common: RunOptions = DEFAULTS,
) -> None:
    """Download the images of a URL list.

    Args:
        urls: A txt, csv, tsv, jsonl or parquet file of URLs, or one URL.
        out: Folder of the run; it is made if it does not exist.
        client: The HTTP client; "auto" chooses.
        allow_private: Also fetch from addresses of this machine and its own network, which are refused otherwise.
        allow_unresolved: Behind a proxy, also ask it for host names that cannot be looked up on this machine; the proxy
            must then refuse private addresses itself.
        url_column: Column that holds the URLs, for files with columns.
        keep_queries: Keep the queries of URLs, signatures of signed URLs included, in the ledger and the report.
        common: What both pipelines let a user choose.
    """
    own = {
        "client": client,
        "allow_private": allow_private,
        "allow_unresolved": allow_unresolved,
        "url_column": url_column,
        "keep_queries": keep_queries,
    }
    source = [_single_url(urls)] if "://" in urls else urls
    run_images(Terminal(), source, out, {**_given(common), **own})


@app.command(help_epilogue=_epilogue(CSV_EXAMPLES))
def csv(
    sources: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    out: Path,
    encoding: Annotated[str | None, Parameter(group=CSV)] = None,
    delimiter: Annotated[str | None, Parameter(group=CSV)] = None,
    skip_lines: Annotated[int, Parameter(group=CSV)] = 0,
    max_rejects: Annotated[str, Parameter(group=CSV)] = "5%",
    follow_links: Annotated[bool, Parameter(group=CSV, negative="", show_default=False)] = False,
    common: RunOptions = DEFAULTS,
) -> None:
    r"""Turn CSV files into Parquet files, one each, and keep the rows that do not fit.

    Args:
        sources: CSV files, or patterns in quotes such as 'exports/*.csv'. "**" enters no linked folder.
        out: Folder of the run; it is made if it does not exist.
        encoding: Encoding of files that are not UTF-8, such as cp1252 or mac-roman. UTF-8 files are known as such.
        delimiter: Delimiter of all files, one character; \t is a tab. [default: found out for each file]
        skip_lines: Lines before the header that are no part of the table, such as a title.
        max_rejects: Records that a file may lose, a share such as 5% or a count such as 25. With more it is failed.
        follow_links: Read also matches of a pattern that lead out of its folder, which are failed items otherwise.
        common: What both pipelines let a user choose.
    """
    own = {
        "encoding": encoding,
        "delimiter": delimiter,
        "skip_lines": skip_lines,
        "max_rejects": max_rejects,
        "follow_links": follow_links,
    }
    run_csv(Terminal(), sources, out, {**_given(common), **own})


@app.command(help_epilogue=_epilogue(DEMO_EXAMPLES))
def demo(*, out: Path = Path("fanout-demo")) -> int:
    """Run both pipelines on a small site and ten CSV files, made on the spot.

    Args:
        out: Folder of the demo; what an earlier demo left in it is replaced.
    """
    from prefect_fanout._demo import run_demo
    from prefect_fanout.tasks.run_directory import local_folder

    local_folder(out)
    return EXIT_OK if run_demo(Terminal(talks=True), out, run_images, run_csv) else EXIT_RUN_FAILED


def run_images(terminal: Terminal, urls: list[str] | str, out: Path, options: Mapping[str, object]) -> Finished:
    """Run the flow `download-images` with a live bar and write the summary.

    Args:
        terminal: Where the bar and the summary go.
        urls: URLs, or the path of a list.
        out: The run directory.
        options: Fields of `ImageOptions`.

    Raises:
        UsageError: An option is out of range, the list or the folder cannot be used.
        RunFailed: The run could not be finished.
    """
    from prefect_fanout.flows.download_images import download_images
    from prefect_fanout.tasks.images.client import ClientFactory
    from prefect_fanout.tasks.images.options import ImageOptions
    from prefect_fanout.tasks.images.url_list import open_list
    from prefect_fanout.tasks.run_directory import local_folder

    checked = _checked(ImageOptions, options)
    local_folder(out)
    # A list, a proxy or a client that cannot be used should not cost the start of a server.
    open_list(urls, column=checked.url_column)
    ClientFactory(checked, urllib.request.getproxies())
    return _run(terminal, "Downloading", lambda: download_images(urls, str(out), checked), out)


def run_csv(terminal: Terminal, sources: Sequence[str], out: Path, options: Mapping[str, object]) -> Finished:
    """Run the flow `ingest-csv` with a live bar and write the summary.

    Args:
        terminal: Where the bar and the summary go.
        sources: Paths and patterns of CSV files.
        out: The run directory.
        options: Fields of `CsvOptions`.

    Raises:
        UsageError: An option is out of range, a source or the folder cannot be used.
        RunFailed: The run could not be finished.
    """
    from prefect_fanout.flows.ingest_csv import ingest_csv
    from prefect_fanout.tasks.run_directory import local_folder
    from prefect_fanout.tasks.tables.options import CsvOptions
    from prefect_fanout.tasks.tables.sources import find_sources

    checked = _checked(CsvOptions, options)
    local_folder(out)
    find_sources(sources)  # as above
    return _run(terminal, "Ingesting", lambda: ingest_csv(list(sources), str(out), checked), out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows `fanout` on the command line; None means the arguments of the process.

    Returns:
        The exit code; see the top of this module.
    """
    quiet_prefect()
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise SystemExit(EXIT_TERMINATED)

    # While a flow runs Prefect has a handler of its own: it ends the flow, sends the signal again, and that comes here.
    before = signal.signal(signal.SIGTERM, stop)
    try:
        return app(sys.argv[1:] if arguments is None else arguments, result_action="return_value") or EXIT_OK
    except FanoutError as error:
        if not stopped:
            return _exit_code(error)
    except BaseException as error:  # after the signal it is Prefect's TerminationSignal or the SystemExit above
        if not stopped and isinstance(error, KeyboardInterrupt):
            Terminal().error("Interrupted. What was finished is kept: give the same command again to go on.")
            return EXIT_INTERRUPTED
        if not stopped:
            raise
    finally:
        signal.signal(signal.SIGTERM, before)
    Terminal().error("Stopped by SIGTERM. What was finished is kept: give the same command again to go on.")
    return EXIT_TERMINATED


def _exit_code(error: FanoutError) -> int:
    Terminal().error(str(error))
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_TOO_MANY_FAILURES if isinstance(error, TooManyFailures) else EXIT_RUN_FAILED


def _single_url(text: str) -> str:
    """Return a URL that was given in place of a list, checked before it becomes a parameter that the server keeps."""
    from prefect_fanout.tasks.images.url import InvalidUrl, parse

    try:
        parse(text)
    except InvalidUrl as error:
        raise UsageError(str(error)) from None
    return text


def _given(common: RunOptions) -> dict[str, object]:
    """The options that were given or have a default of the command's own; the rest is left to the pipeline."""
    return {name: value for name, value in asdict(common).items() if value is not None}


def _checked(model: type[Options], options: Mapping[str, object]) -> Options:
    """The options as the pipeline's model, or a usage error that names the option as it is typed."""
    from pydantic import ValidationError

    try:
        return model(**options)
    except ValidationError as error:
        problems = []
        for fault in error.errors():
            own = fault.get("ctx", {}).get("error")  # a sentence of ours, which has the value in it
            problem = own or f"{fault['msg']}, got {fault['input']!r}"
            problems.append(f"--{str(fault['loc'][0]).replace('_', '-')}: {problem}.")
        raise UsageError(" ".join(dict.fromkeys(problems))) from error


def _run(terminal: Terminal, title: str, flow: Callable[[], Mapping[str, Any]], out: Path) -> Finished:
    """Call the flow with a server and a live bar, and write what it came to.

    Raises:
        TooManyFailures: After the summary, when the flow raised it; so does AllItemsFailed.
    """
    from prefect_fanout.tasks.progress import bound_listener

    with terminal.waiting("Starting Prefect's embedded server ..."):
        address = connect()
    excess: FanoutError | None = None
    started = time.monotonic()
    try:
        with terminal.bar(title) as bar, bound_listener(bar.update), suited_to(address):
            flow()
    except (AllItemsFailed, TooManyFailures) as error:
        excess = error
    finished = read_finished(out.expanduser(), time.monotonic() - started)
    terminal.finished(finished)
    if excess is not None:
        raise excess
    return finished
