"""The benchmarks run, with tiny sizes; how fast anything is, no test says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALL_MET, ONE_MISSED, CANNOT_RUN = 0, 1, 2
PATIENCE_S = 280
NAMES = ("idle", "runner", "images", "csv")
NGINX = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a benchmark as a person does from the project's root."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A copy of the page that the benchmarks write into, with its sections emptied."""
    copy = tmp_path / "performance.md"
    copy.write_text("".join(f"# {name}\n<!-- begin {name} -->\nold\n<!-- end {name} -->\n" for name in NAMES))
    return copy


def first_row(page: Path) -> str:
    """Return the first row of the only table."""
    return page.read_text().partition("---: |\n")[2].partition("\n")[0]


def test_the_idle_benchmark_measures_both_servers(page: Path, tmp_path: Path) -> None:
    """A tiny run shows what each server took and ends with a verdict on the command's."""
    done = run("idle.py", "--seconds", "0.5", "--rounds", "2", "--work", tmp_path / "work", "--markdown", page)
    assert done.returncode in (ALL_MET, ONE_MISSED), done.stdout + done.stderr
    assert first_row(page).startswith("| that of the command `fanout` | ")
    assert "the command's server takes less than 3 %" in done.stdout
    assert list((tmp_path / "work").iterdir()) == []


def test_the_runner_benchmark_compares_measures_memory_and_counts_lost_messages(page: Path) -> None:
    """A tiny run ends with a table and a line for each target, and puts both into its section of the page."""
    sizes = ("--items", "300", "--stock-items", "20", "--rounds", "1", "--stream-items", "2000", "--chunksize", "100")
    done = run("runner.py", *sizes, "--markdown", page)
    assert done.returncode in (ALL_MET, ONE_MISSED), done.stdout + done.stderr
    for expected in (
        "ThreadPoolTaskRunner",
        "ExecutorTaskRunner",
        "times less than on Prefect's runner",
        "met: memory grows by less than 150 MB",
        "met: the server of ExecutorTaskRunner dropped no message: 0 dropped",
        "met: it knows every task run of ours as Completed",
    ):
        assert expected in done.stdout
    text = page.read_text()
    assert text.count("old") == len(NAMES) - 1
    assert "| ExecutorTaskRunner | 300 | 100 |" in text
    assert "python benchmarks/runner.py --items 300" in text
    assert str(page) not in text


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_image_benchmark_downloads_the_same_files_with_every_contender(page: Path, tmp_path: Path) -> None:
    """A tiny run with only what the project's own environment has leaves no contender with missing images."""
    only = ("--no-install", "--only", "requests.get", "curl --parallel")
    sizes = ("--count", "20", "--kib", "8", "--rounds", "1", "--threads", "4")
    done = run("images.py", *sizes, *only, "--work", tmp_path / "work", "--markdown", page)
    assert done.returncode in (ALL_MET, ONE_MISSED), done.stdout + done.stderr
    assert "a Session per thread (baseline)" in done.stdout
    assert "requests.get in threads" in done.stdout
    assert "images missing" not in done.stdout
    assert first_row(page).startswith("| fanout images, as typed | ")
    assert "at least as fast as a pool of Sessions" in page.read_text()
    assert list((tmp_path / "work").iterdir()) == []


def test_the_csv_benchmark_counts_the_rows_of_every_contender(page: Path, tmp_path: Path) -> None:
    """A tiny run with only what the project's own environment has ends with every row in Parquet."""
    sizes = ("--files", "2", "--mb", "0.05", "--rounds", "1", "--codecs", "snappy", "--no-install", "--only", "pandas")
    done = run("csv.py", *sizes, "--work", tmp_path / "work", "--markdown", page)
    assert done.returncode in (ALL_MET, ONE_MISSED), done.stdout + done.stderr
    assert "Every contender wrote every row." in page.read_text()
    assert ", in threads" in done.stdout
    assert first_row(page).startswith("| fanout csv, as typed (zstd) | ")
    assert list((tmp_path / "work").iterdir()) == []


def test_without_nginx_the_image_benchmark_says_how_to_get_it() -> None:
    """A web server that is not there ends the benchmark before it has made anything."""
    done = run("images.py", "--nginx", "no-such-nginx")
    assert done.returncode == CANNOT_RUN
    assert "apt-get install nginx" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("script", [f"{name}.py" for name in NAMES])
def test_a_page_without_the_section_is_refused_before_anything_is_measured(script: str, tmp_path: Path) -> None:
    """A Markdown file that could not take the results is found out first, not after minutes."""
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    done = run(script, "--markdown", page)
    assert done.returncode == CANNOT_RUN
    assert "<!-- begin" in done.stderr
    assert done.stdout == ""
