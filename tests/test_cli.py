"""The `fanout` command: what it prints, what it leaves behind, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings

from prefect_fanout import __version__, _local_server
from prefect_fanout._connection import suited_to
from prefect_fanout._demo_site import demo_site
from prefect_fanout.cli import main
from prefect_fanout.tasks.ledger import read_ledger
from servers.command import PATIENCE_S, read_terminal, run_fanout, run_on_terminal, start_fanout
from servers.fault_server import FaultServer, body
from servers.prefect_server import PrefectServer

SITE = ["--allow-private", "--out", "run"]


@pytest.fixture
def environment(prefect_server: PrefectServer) -> dict[str, str]:
    """An environment in which the command uses the tests' server."""
    return {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(prefect_server.home)}


@pytest.fixture
def site() -> Iterator[list[str]]:
    """20 good images, three that fail, and one URL twice."""
    with demo_site() as urls:
        yield urls


def _list_of(folder: Path, urls: list[str]) -> str:
    (folder / "urls.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
    return "urls.txt"


def _table(folder: Path, name: str, rows: int = 3) -> str:
    (folder / name).write_text("a,b\n" + "".join(f"{row},x\n" for row in range(rows)), encoding="utf-8")
    return name


@dataclass(frozen=True)
class Here:
    """The command in this process, for what it answers before it works: a process of its own takes seconds."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `main()` with these arguments; gives exit code, standard output and standard error."""
        self.monkeypatch.setenv("COLUMNS", "120")
        before = dict(os.environ)
        try:
            code = main(arguments)
        except SystemExit as ended:  # how cyclopts ends on wrong usage
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os.environ.clear()
            os.environ.update(before)
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command in this process and in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return Here(capsys, monkeypatch)


# --- words -----------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_shows_examples(here: Here) -> None:
    """`fanout` alone and `fanout --help` explain the commands, with examples and exit codes, and exit with 0."""
    for arguments in ([], ["--help"]):
        code, out, _ = here.run(*arguments)
        assert code == 0
        assert all(word in out for word in ("images", "csv", "demo", "Examples:", "Exit codes:", "--max-failed"))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "images",
            "--out --client --allow-private --allow-unresolved --url-column --keep-queries "
            "--workers --chunksize --max-failed --retry-failed --fresh",
        ),
        (
            "csv",
            "--out --encoding --delimiter --skip-lines --max-rejects --follow-links --workers --chunksize --max-failed "
            "--retry-failed --fresh",
        ),
        ("demo", "--out"),
    ],
)
def test_help_of_a_command_explains_each_option(here: Here, command: str, options: str) -> None:
    """Each option of a command stands in its help."""
    code, out, _ = here.run(command, "--help")
    assert code == 0
    assert set(options.split()) == set(re.findall(r"^│[ *]+(--[a-z-]+)", out, re.MULTILINE)) - {"--help"}


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    """`fanout --version` prints the version and nothing else."""
    done = run_fanout("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


# --- exit code 2: wrong usage, nothing written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bogus", "bogus"),
        ("images", "URLS"),
        ("images urls.txt", "--out"),
        ("csv --out run", "SOURCES"),
        ("csv table.csv --out run --nope", "--nope"),
        ("csv table.csv --out run --workers many", "--workers"),
        ("csv table.csv --out run --workers 0", "--workers"),
        ("csv table.csv --out run --workers -1", "--workers"),
        ("csv table.csv --out run --chunksize 0", "--chunksize"),
        ("csv table.csv --out run --max-failed -1", "--max-failed"),
        ("csv table.csv --out run --max-rejects 101%", "--max-rejects"),
        ("csv table.csv --out run --encoding klingon", "--encoding"),
        ("csv table.csv --out run --delimiter ::", "--delimiter"),
        ("csv table.csv --out run --skip-lines -1", "--skip-lines"),
        ("images urls.txt --out run --workers 1000000", "--workers"),
        ("images urls.txt --out run --chunksize some", "--chunksize"),
        ("images urls.txt --out run --client wget", "--client"),
        ("images no-such-list.txt --out run", "no-such-list.txt"),
        ("images table.xls --out run", ".parquet"),
        ("images urls.csv --url-column link --out run", "link"),
        ("csv no-such-table.csv --out run", "no-such-table.csv"),
        ("csv no-such-*.csv --out run", "no-such-*.csv"),
        ("csv table.csv --out s3://bucket/run", "s3:/bucket/run"),
        ("images urls.txt --out gs://bucket", "gs:/bucket"),
        ("demo --out s3://bucket", "s3:/bucket"),
    ],
)
def test_wrong_usage_is_said_at_once_and_exits_with_2(here: Here, tmp_path: Path, arguments: str, said: str) -> None:
    """A command, option, value or input that cannot be used is named on standard error before anything is written."""
    _list_of(tmp_path, ["http://127.0.0.1:9/a.jpg"])
    (tmp_path / "urls.csv").write_text("address\nhttp://127.0.0.1:9/a.jpg\n", encoding="utf-8")
    _table(tmp_path, "table.csv")
    (tmp_path / "table.xls").touch()
    before = sorted(tmp_path.iterdir())
    code, out, err = here.run(*arguments.split())
    assert (code, out) == (2, ""), err
    assert said in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_process_with_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    """The exit code of the process is that of `main()`, and the error is one sentence, not a traceback."""
    done = run_fanout("csv", "no-such-table.csv", "--out", "run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fanout: ")
    assert "no-such-table.csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["a-file", "a-file/below", "full"])
def test_a_folder_that_cannot_be_used_exits_with_2(tmp_path: Path, environment: dict[str, str], out: str) -> None:
    """A file in the place of the folder, or a folder with things of someone else, is named and left as it was."""
    table = _table(tmp_path, "table.csv")
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    done = run_fanout("csv", table, "--out", out, cwd=tmp_path, environment=environment)
    assert done.returncode == 2, done.stderr
    assert out.partition("/")[0] in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a-file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_naming_the_curl_client_is_a_clear_error(tmp_path: Path, environment: dict[str, str]) -> None:
    """`--client curl` says that this client is not there yet, and what to choose instead."""
    urls = _list_of(tmp_path, ["http://127.0.0.1:9/a.jpg"])
    done = run_fanout("images", urls, *SITE, "--client", "curl", cwd=tmp_path, environment=environment)
    assert done.returncode == 2, done.stderr
    assert "curl" in done.stderr
    assert "requests" in done.stderr


# --- exit code 0 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["--workers 1", "--workers 2 --chunksize 2", "--chunksize auto"])
def test_csv_files_become_parquet_and_one_line_is_printed(
    tmp_path: Path, environment: dict[str, str], options: str
) -> None:
    """All well is exit code 0, one line of summary on standard output, and nothing on standard error."""
    for number in range(3):
        _table(tmp_path, f"table-{number}.csv")
    done = run_fanout("csv", "table-*.csv", "--out", "run", *options.split(), cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"run: 3 items, 3 ok, 0 failed, 9 rows in, 9 rows out, \d+\.\d s\n", done.stdout)
    assert len(list((tmp_path / "run" / "data").glob("*.parquet"))) == 3
    assert list(read_ledger(tmp_path / "run")["status"]) == ["ok"] * 3
    assert (tmp_path / "run" / "run.json").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_single_url_can_stand_in_place_of_a_list(
    tmp_path: Path, environment: dict[str, str], site: list[str]
) -> None:
    """`fanout images URL` downloads this one image."""
    done = run_fanout("images", site[0], *SITE, cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run: 1 item, 1 ok, 0 failed, ")


def test_private_addresses_are_refused_unless_allowed(
    tmp_path: Path, environment: dict[str, str], site: list[str]
) -> None:
    """Without `--allow-private` an address of this machine is not fetched; it is a failed item."""
    done = run_fanout("images", site[0], "--out", "run", cwd=tmp_path, environment=environment)
    assert done.returncode == 1
    assert "blocked_address 1" in done.stdout


# --- exit code 3, and going on ---------------------------------------------------------------------------------------


def test_more_failures_than_allowed_exit_with_3_when_all_is_written(
    tmp_path: Path, environment: dict[str, str], site: list[str]
) -> None:
    """Failed items are told on one line by kind, all else is done, and what to do stands on standard error."""
    urls = _list_of(tmp_path, site)
    done = run_fanout("images", urls, *SITE, "--max-failed", "2", cwd=tmp_path, environment=environment)
    assert done.returncode == 3
    assert done.stdout.startswith("run: 24 items, 20 ok, 3 failed, 1 duplicate")
    assert "http_4xx 1" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "3 items failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "run.json").is_file()


def test_as_many_failures_as_allowed_exit_with_0(tmp_path: Path, environment: dict[str, str], site: list[str]) -> None:
    """`--max-failed 3` accepts three failed items."""
    urls = _list_of(tmp_path, site)
    done = run_fanout("images", urls, *SITE, "--max-failed", "3", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_same_folder_goes_on_and_options_choose_what_is_repeated(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """A rerun fetches nothing that is done; `--retry-failed` fetches what failed, `--fresh` everything."""
    with demo_site() as urls, FaultServer() as server:
        good = urls[0]
        urls_file = _list_of(tmp_path, [good, f"{server.url}/later.jpg"])

        def run(*options: str) -> tuple[int, str]:
            done = run_fanout("images", urls_file, *SITE, *options, cwd=tmp_path, environment=environment)
            return done.returncode, done.stdout

        assert run()[0] == 3
        assert server.requests["/later.jpg"] == 1

        code, line = run()
        assert code == 3  # the failure is still there
        assert "1 skipped" in line or "2 skipped" in line
        assert server.requests["/later.jpg"] == 1

        image = (tmp_path / read_ledger(tmp_path / "run")["path"][0]).name
        server.routes["/later.jpg"] = body(next((tmp_path / "run").rglob(image)).read_bytes())
        code, line = run("--retry-failed")
        assert (code, server.requests["/later.jpg"]) == (0, 2)
        assert "2 ok" in line

        assert run("--fresh")[0] == 0
        assert server.requests["/later.jpg"] == 3


def test_fresh_keeps_a_users_files_and_says_so(tmp_path: Path, environment: dict[str, str]) -> None:
    """`--fresh` removes the old results, leaves what a user put among them, and names it on standard error."""
    for name in ("old.csv", "new.csv"):
        _table(tmp_path, name)
    assert run_fanout("csv", "old.csv", "--out", "run", cwd=tmp_path, environment=environment).returncode == 0
    labels = tmp_path / "run" / "data" / "labels.csv"
    labels.write_text("mine")
    done = run_fanout("csv", "new.csv", "--out", "run", "--fresh", cwd=tmp_path, environment=environment)
    assert done.returncode == 0
    assert done.stdout.startswith("run: 1 item, 1 ok")
    assert done.stderr == "note: --fresh left 1 file in place that no row of the ledger names: 'data/labels.csv'.\n"
    assert labels.read_text() == "mine"
    assert [path.name[:4] for path in sorted(labels.parent.iterdir())] == ["labe", "new-"]
    assert "labels.csv" in (tmp_path / "run" / "report.html").read_text()


def test_a_prepared_folder_costs_the_user_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    """A link in the place of the lock file is refused in one sentence, and the file that it leads to is not emptied."""
    (tmp_path / "victim.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim.txt")
    table = _table(tmp_path, "table.csv")
    done = run_fanout("csv", table, "--out", "run", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "run/.lock should be a regular file that a run made, but is a link" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "victim.txt").read_text() == "mine"


# --- exit code 1 -----------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_be_finished_exits_with_1(tmp_path: Path, environment: dict[str, str]) -> None:
    """A damaged ledger ends the run with its name on standard error, no traceback, and no mark of completion."""
    table = _table(tmp_path, "table.csv")
    assert run_fanout("csv", table, "--out", "run", cwd=tmp_path, environment=environment).returncode == 0
    (tmp_path / "run" / "ledger.parquet").write_bytes(b"PAR1 no longer")
    done = run_fanout("csv", table, "--out", "run", cwd=tmp_path, environment=environment)
    assert done.returncode == 1, done.stderr
    assert "ledger" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_server_that_does_not_answer_exits_with_1(tmp_path: Path) -> None:
    """The address of the silent server stands on standard error with what to do, and nothing is written."""
    table = _table(tmp_path, "table.csv")
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "home")}
    done = run_fanout("csv", table, "--out", "run", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "http://127.0.0.1:9/api" in done.stderr
    assert "PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_heartbeats_go_only_to_a_server_that_outlives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of the command's own gets none, for nobody waits for them there; any other server gets Prefect's."""
    monkeypatch.setattr(_local_server, "_addresses", {"http://127.0.0.1:1/api"})
    seen = []
    for address in ("http://127.0.0.1:1/api", "http://127.0.0.1:2/api"):
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}), suited_to(address):
            seen.append(get_current_settings().flows.heartbeat_frequency)
    assert seen == [None, 60]


# --- a terminal ------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_and_the_failures(tmp_path: Path, environment: dict[str, str], site: list[str]) -> None:
    """On a terminal the bar shows count, failures and rate, and the summary names the failed items with the reason."""
    master, slave = os.openpty()
    process = start_fanout(
        ["images", _list_of(tmp_path, site), *SITE],
        cwd=tmp_path,
        environment={**environment, "TERM": "xterm-256color", "COLUMNS": "120"},
        stderr=slave,
    )
    os.close(slave)
    shown = read_terminal(master)
    stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert len(stdout.decode().splitlines()) == 1  # standard output is no terminal here
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert "24/24" in text
    assert "3 failed" in text
    assert re.search(r"[\d.]+/s", text)


def _assert_neutral(shown: bytes) -> str:
    """Fail unless colours and moves of the cursor are all that a terminal would obey; gives the text that it shows."""
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert not [char for char in text if unicodedata.category(char) in ("Cc", "Cf") and char not in "\r\n"], repr(text)
    return text


HOSTILE = "\x1b]0;PWNED\x07\x1b]52;c;UFdORUQ=\x07\x9b31m\u202egnp\x08"
"""Sets title and clipboard of a terminal that obeys it, turns the direction of text, and removes a character."""

MARKUP = "[link=http://evil.example]x[/]"
"""A link in the markup of the library that writes the tables."""


def test_nothing_of_a_list_or_a_server_can_command_a_terminal(tmp_path: Path, environment: dict[str, str]) -> None:
    """Neither the URLs of a list, nor its name, nor a server's reason phrase brings an escape sequence or a link."""
    with FaultServer({"/reason.jpg": body(b"", f"404 {HOSTILE[:-4]}".replace("\u202e", ""))}) as server:
        urls = [f"{server.url}/{path}" for path in ("reason.jpg", f"missing.jpg?{HOSTILE}", f"missing.jpg?{MARKUP}")]
        urls += [f"http://{HOSTILE}/", f"no {HOSTILE}"]
        name = f"{HOSTILE}.jsonl"
        (tmp_path / name).write_text("".join(json.dumps({"url": url}) + "\n" for url in urls), encoding="utf-8")
        code, shown = run_on_terminal("images", name, *SITE, cwd=tmp_path, environment=environment)
    text = _assert_neutral(shown)
    assert code == 1, text
    assert "PWNED" in text
    assert "404 \ufffd]0;PWNED" in text
    assert MARKUP in text, "shown as it is, not taken for a link"


@pytest.mark.parametrize("arguments", ["{}", "csv --{}", "csv a --out r --workers {}", "images a --out r --client {}"])
def test_no_argument_is_repeated_as_an_escape_sequence(tmp_path: Path, arguments: str) -> None:
    """A file that is named like an option, in a folder where somebody typed `*`, is refused in plain text."""
    texts = [argument.format(HOSTILE) for argument in arguments.split()]
    code, shown = run_on_terminal(*texts, cwd=tmp_path, environment={})
    assert code == 2
    assert "PWNED" in _assert_neutral(shown)


def test_the_name_of_a_csv_file_cannot_command_a_terminal(tmp_path: Path, environment: dict[str, str]) -> None:
    """A file with a hostile name that fails is named without its escape sequences."""
    (tmp_path / f"{HOSTILE}.csv").write_bytes(b"PK\x03\x04 no table")
    code, shown = run_on_terminal("csv", "*.csv", "--out", "run", cwd=tmp_path, environment=environment)
    text = _assert_neutral(shown)
    assert code not in (0, 2), text
    assert "PWNED" in text


def test_without_a_server_the_command_brings_its_own_and_ends_it(tmp_path: Path) -> None:
    """Without PREFECT_API_URL a server is started below PREFECT_HOME, and no process of it is left.

    Its password is its own, whatever the user has set for another server.
    """
    home = tmp_path / "home"
    environment: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("PREFECT_"))
    environment |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": "a:b",
        "PREFECT_API_AUTH_STRING": "c:d",
    }
    process = start_fanout(
        ["csv", _table(tmp_path, "table.csv"), "--out", "run"], cwd=tmp_path, environment=environment
    )
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (0, b"")
    assert (home / "prefect.db").is_file()
    users = subprocess.run(
        ["sh", "-c", f"grep -l {home} /proc/[0-9]*/environ 2>/dev/null"], capture_output=True, check=False
    )
    assert users.stdout == b""
