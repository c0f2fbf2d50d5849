"""Each example is run as a reader would run it, and what it prints is checked; never how long it took."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from servers.prefect_server import PrefectServer

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PATIENCE_S = 120

COMMONS = [
    "Python_bivittatus_1701.jpg",
    "Python_Regius.jpg",
    "Baby_carpet_python_caudal_luring.jpg",
    "Rock_python_pratik.JPG",
    "Dulip_Wilpattu_Python1.jpg",
    "Image_created_with_a_mobile_phone.png",
    "TEIDE.JPG",
    "Pencil_drawing_of_a_girl_in_ecstasy.jpg",
    "Cristiano_Ronaldo_2018.jpg",
    "Ronaldo_-_Manchester_United_vs_Chelsea.jpg",
    "Ronaldo_in_2018.jpg",
    "Cristiano_Ronaldo_20120609.jpg",
    "cristiano_ronaldo_2016.jpg",
    "Contrôle_de_Cristiano_Ronaldo.jpg",
    "ANSI_ISO_C++_WP.jpg",
    "Python_3._The_standard_type_hierarchy.png",
    "Python_Powered.png",
    "Muhammad_Ali_NYWTS.jpg",
    "Muhammad_Ali_and_Jimmy_Carter.jpg",
    "JoeEMartinCassiusClay1960.jpg",
]


def run(server: PrefectServer, folder: Path, script: str, *arguments: str, code: int = 0) -> tuple[list[str], str]:
    """Run an example from `folder`, expect its exit code, and return the lines of its output and its error output."""
    process = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=folder,
        env={**os.environ, **server.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert process.returncode == code, process.stdout + process.stderr
    return process.stdout.splitlines(), process.stderr


def test_manual_thread(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """The thread's answer is there once it has been joined, and the future has it too."""
    lines, _ = run(prefect_server, tmp_path, "manual_thread.py")
    assert lines[1:4] == [
        "created:  alive=False  answers=0",
        "joined:   alive=False  answers=1",
        "Hello Ada, from the thread greeter.",
    ]
    assert re.fullmatch(r"Hello Ada, from the thread greeter.\d+\.", lines[6])
    assert lines[7] == "finished: state=Completed"


def test_pool_lifecycle(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """In each form of the pool four tasks meet at a barrier, which they pass only together, and all come back."""
    lines, _ = run(prefect_server, tmp_path, "pool_lifecycle.py", "--seconds", "0.2")
    titles = [line.removesuffix(":") for line in lines if line.endswith(":")]
    assert titles == [
        "one after the other",
        "submit, wait, shutdown",
        "with, map",
        "with, as_completed",
        "flow: submit, wait",
        "flow: map",
        "flow: as_completed",
        "runner: with, submit",
    ]
    assert lines.count("  done=4 not_done=0") == 2
    answers = [re.findall(r"'(\w+)'", line) for line in lines if line.startswith("  [")]
    assert [sorted(names) for names in answers] == [["east", "north", "south", "west"]] * len(titles)
    in_order = [names for title, names in zip(titles, answers, strict=True) if "as_completed" not in title]
    assert in_order == [["north", "east", "south", "west"]] * 6


def test_thread_names(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """Each pool's two threads bear its prefix and a number, in the answers and in the log."""
    lines, log = run(prefect_server, tmp_path, "thread_names.py")
    assert lines[0] == "main: MainThread"
    assert [line[0] for line in lines[1:]] == list("abcdabcd")
    for prefix, answers in (("porter", lines[1:5]), ("courier", lines[5:9])):
        assert {line.split(" by ")[1] for line in answers} == {f"{prefix}_0", f"{prefix}_1"}
        assert f"{prefix}_0: handling" in log


def test_worker_resources(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """Both threads open one connection each; the runner also closes it in the thread that opened it."""
    lines, _ = run(prefect_server, tmp_path, "worker_resources.py")
    text = "\n".join(lines)
    assert lines.count("[1, 4, 9, 16, 25, 36]") == 3
    for prefix in ("pool", "runner", "resource"):
        opened = re.findall(rf"^opened in ({prefix}\S*)$", text, re.M)
        assert len(opened) == len(set(opened)) == 2
        if prefix != "pool":
            assert sorted(re.findall(rf"^closed in ({prefix}\S*)$", text, re.M)) == sorted(opened)
    assert lines.count("closed in MainThread") == 2


def test_future_methods(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """A running task cannot be cancelled, a queued one can; results and exceptions come out as they went in."""
    lines, _ = run(prefect_server, tmp_path, "future_methods.py")
    shared = [
        "first:  done=False running=True cancel=False",
        "second: cancel=True cancelled=True done=True",
        "first:  done=True result='through the gate' exception=None",
        "third:  done=True exception=ValueError('seven is not an answer')",
    ]
    assert lines[1:7] == [
        *shared,
        "third:  result raises ValueError: seven is not an answer",
        "second: result raises CancelledError",
    ]
    assert lines[9:14] == [*shared, "states: Completed, Cancelled, Failed"]


def test_download_images(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """The loop sends one request at a time, the pool and the flow several, and all three save the same 20 files."""
    lines, _ = run(prefect_server, tmp_path, "download_images.py", "--workers", "5")
    counts = [re.fullmatch(r"(.+): 20 images, ([\d,]+) bytes, [\d.]+ s", line) for line in lines[::3]]
    assert [match[1] for match in counts if match] == ["one after the other", "pool of 5 threads", "flow on 5 threads"]
    assert len({match[2] for match in counts if match}) == 1
    assert lines[1::3] == ["  first image-00.png, last image-19.png"] * 3
    at_once = [int(line.rsplit(" ", 1)[1]) for line in lines[2::3]]
    assert at_once[0] == 1
    assert all(1 < number <= 5 for number in at_once[1:])


def test_wikimedia_is_asked_politely(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """Without an address to write to, the files of Wikimedia are not requested at all."""
    _, errors = run(prefect_server, tmp_path, "download_images.py", str(EXAMPLES / "wikimedia.txt"), code=2)
    assert "add --contact" in errors


def test_wikimedia_list() -> None:
    """The list names the 20 files of Wikimedia Commons, each through Special:FilePath and percent-encoded."""
    urls = (EXAMPLES / "wikimedia.txt").read_text(encoding="ascii").splitlines()
    folder = "https://commons.wikimedia.org/wiki/Special:FilePath/"
    assert all(url.startswith(folder) for url in urls)
    assert [unquote(url.removeprefix(folder)) for url in urls] == COMMONS


def test_read_csv_files(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """The loop, the pool and the flow read the same rows and sums from the ten files, with either parser."""
    lines, _ = run(prefect_server, tmp_path, "read_csv_files.py", "--rows", "100", "--workers", "2")
    pattern = re.compile(r"(.+), (\w+): 10 files, 1,000 rows, sum ([\d,]+), [\d.]+ s, [\d.]+ cores")
    matches = [pattern.fullmatch(line) for line in lines]
    assert [(match[1], match[2]) for match in matches if match] == [
        (way, parser)
        for way in ("one after the other", "pool of 2 threads", "flow on 2 threads")
        for parser in ("pandas", "pyarrow")
    ]
    assert len({match[3] for match in matches if match}) == 1


def test_when_threads_help(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """Every kind of work gives the same answer in the loop, the pool and the flow, and gets its line."""
    lines, _ = run(prefect_server, tmp_path, "when_threads_help.py", "--scale", "0.01")
    assert [line[:20].strip() for line in lines[1:]] == [
        "work",
        "waiting",
        "hashing",
        "compressing",
        "counting in Python",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_example_is_tested_and_listed(script: Path) -> None:
    """No example is left out of this file or of the index."""
    assert f'"{script.name}"' in Path(__file__).read_text(encoding="utf-8")
    assert f"({script.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
