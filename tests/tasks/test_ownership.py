"""Run directories that somebody else prepared: each is refused, in one piece, with nothing outside it touched."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout._finished import read_finished
from prefect_fanout.tasks.ledger import Ledger, ledger_schema
from prefect_fanout.tasks.ownership import take_lock
from prefect_fanout.tasks.run_directory import RunDirectory

NOBODY, SOMEBODY = 65_534, 12_345
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")

FILES = (".lock", ".run", "run.json", "ledger.parquet", ".index.sqlite", "report.html", "timeline.parquet")
FOLDERS = ("ledger", "images", "data", "rejects")
DEEP_FILES = ("ledger/part-00000002.parquet", "images/3f/cat.jpg", "images/3f/body.tmp-0123456789ab")
DEEP_FOLDERS = ("images/3f", "images/3f/files")


def make_socket(path: Path) -> None:
    """Make a socket file; its address is relative to the current folder, for it has at most 107 bytes."""
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))


STAND_INS: dict[str, Callable[[Path, Path], object]] = {
    "fifo": lambda path, outside: os.mkfifo(path),
    "socket": lambda path, outside: make_socket(path),
    "dangling link": lambda path, outside: path.symlink_to(outside / "not there"),
    "link to a file": lambda path, outside: path.symlink_to(outside / "precious.txt"),
    "link to a folder": lambda path, outside: path.symlink_to(outside),
}
"""Make at `path` what a run never makes, leading to the folder `outside` where it can."""


def use(folder: Path, *, fresh: bool = False) -> None:
    """Use a folder as a pipeline does: open it, add a row to its ledger, compact that, write the mark."""
    with RunDirectory.open(folder, pipeline="p", fresh=fresh) as run:
        with Ledger(run, ledger_schema("key"), key="key") as ledger:
            ledger.append({"index": 0, "key": "a", "status": "ok"})
            ledger.compact()
        run.write_run_json({"counts": {}, "failures": {"dns": 1}})


def finished_run(folder: Path) -> Path:
    """Make a run directory that has each name that a run can leave, as after a kill in a second run."""
    use(folder)
    with RunDirectory.open(folder, pipeline="p") as run, Ledger(run, ledger_schema("key"), key="key") as ledger:
        ledger.append({"index": 1, "key": "b", "status": "ok"})
    for name in (*FOLDERS, *DEEP_FOLDERS):
        (folder / name).mkdir(exist_ok=True)
    for name in (*FILES, *DEEP_FILES):
        (folder / name).touch()
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read everything below a folder, without following links: kind, and content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = stat.S_IFMT(path.lstat().st_mode)
        content = path.read_bytes() if kind == stat.S_IFREG else b""
        found[str(path)] = kind, os.fsencode(path.readlink()) if kind == stat.S_IFLNK else content
    return found


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Other files of the user, some of which are called as if a run had made them."""
    folder = tmp_path / "outside"
    (folder / "f.tmp-aaaaaaaaaaaa").mkdir(parents=True)
    for name in ("precious.txt", "old.tmp-0123456789ab", "part-00000001.parquet", "f.tmp-aaaaaaaaaaaa/x"):
        (folder / name).write_text("mine")
    return folder


@pytest.mark.parametrize("fresh", [False, True], ids=["go on", "fresh"])
@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS, *DEEP_FILES, *DEEP_FOLDERS])
def test_what_no_run_makes_is_refused_under_every_owned_name(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, name: str, stand_in: str, fresh: bool
) -> None:
    """A link, a FIFO or a socket in the place of a file or folder of a run is named, and nothing is changed."""
    folder = finished_run(tmp_path / "run")
    remove(folder / name)
    monkeypatch.chdir((folder / name).parent)
    STAND_INS[stand_in](folder / name, outside)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=f"{name} should be .* but is a .*(link|FIFO|socket)"):
        use(folder, fresh=fresh)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "ledger/part-00000002.parquet"])
def test_a_file_for_a_folder_and_a_folder_for_a_file_are_refused(tmp_path: Path, name: str) -> None:
    """What has an owned name, but is of the other kind, is named and left as it is."""
    folder = finished_run(tmp_path / "run")
    remove(folder / name)
    if name in FOLDERS:
        (folder / name).write_text("mine")
    else:
        (folder / name).mkdir()
        (folder / name / "mine.txt").write_text("mine")
    before = snapshot(tmp_path)
    for fresh in (False, True):
        with pytest.raises(UsageError, match=f"{name} should be "):
            use(folder, fresh=fresh)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("fresh", [False, True], ids=["go on", "fresh"])
@pytest.mark.parametrize("names", [1, 2, 3])
def test_a_lock_file_with_other_names_is_refused(tmp_path: Path, outside: Path, names: int, fresh: bool) -> None:
    """A hard link in the place of the lock file leads no pid into another file of the user."""
    folder = finished_run(tmp_path / "run")
    if names > 1:
        (folder / ".lock").unlink()
        (folder / ".lock").hardlink_to(outside / "precious.txt")
    if names > 2:
        (outside / "more.txt").hardlink_to(outside / "precious.txt")
    if names == 1:
        use(folder, fresh=fresh)
        return
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=rf"\.lock should be a file with one name, but has {names}"):
        use(folder, fresh=fresh)
    assert snapshot(tmp_path) == before


def test_a_prepared_lock_in_an_empty_folder_is_refused(tmp_path: Path, outside: Path) -> None:
    """A folder that holds nothing but a link as its lock file is not taken for a new one."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(outside / "precious.txt")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=r"\.lock should be a regular file that a run made, but is a link"):
        use(tmp_path / "run")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("stand_in", ["fifo", "dangling link", "link to a file", "hard link", "somebody else's"])
def test_the_lock_alone_is_safe_too(tmp_path: Path, outside: Path, stand_in: str) -> None:
    """Also when the name is swapped after it was looked at, the lock file is not followed, waited for or emptied."""
    path = tmp_path / ".lock"
    if stand_in == "hard link":
        path.hardlink_to(outside / "precious.txt")
    elif stand_in != "somebody else's":
        STAND_INS[stand_in](path, outside)
    else:
        path.write_text("theirs")
    before = snapshot(tmp_path)
    owners = frozenset({os.geteuid() + (stand_in == "somebody else's")})
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises((UsageError, OSError), match=r"FIFO|symbolic links|one name|belongs to user"):
            take_lock(descriptor, tmp_path, owners)
    finally:
        os.close(descriptor)
    assert snapshot(tmp_path) == before


@AS_ROOT
@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "ledger/part-00000002.parquet", *DEEP_FOLDERS])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    """A file or folder of another user, in a folder of ours, is refused in one sentence with both user ids."""
    folder = finished_run(tmp_path / "run")
    os.chown(folder / name, NOBODY, NOBODY)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=f"{name} belongs to user {NOBODY}, but this run works as user 0,") as raised:
        use(folder)
    assert ". " not in str(raised.value).removeprefix(str(folder))
    assert snapshot(tmp_path) == before


def give(folder: Path, user: int) -> None:
    """Give a folder and everything in it to a user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder above the run directory, `home/run`, that belongs to nobody and holds a finished run."""
    home = tmp_path / "home"
    home.mkdir()
    finished_run(home / "run")
    give(home / "run", NOBODY)
    home.chmod(0o755)
    return home


@AS_ROOT
@pytest.mark.parametrize(
    ("owner", "mode", "run_mode", "accepted"),
    [
        (0, 0o755, 0o755, True),
        (NOBODY, 0o755, 0o755, True),
        (NOBODY, 0o700, 0o700, True),
        (SOMEBODY, 0o755, 0o755, False),  # who can rename the run directory and put another one there
        (SOMEBODY, 0o555, 0o755, False),  # who can change the mode
        (0, 0o777, 0o755, False),
        (0, 0o775, 0o755, False),
        (0, 0o1777, 0o755, False),  # as /tmp: everybody can make such a folder and wait for root to use it
        (0, 0o755, 0o775, False),
        (0, 0o755, 0o777, False),
        (0, 0o755, 0o1777, False),
    ],
)
def test_root_works_in_a_folder_that_only_its_owner_can_change(
    home: Path, owner: int, mode: int, run_mode: int, accepted: bool
) -> None:
    """Root goes on with another user's run where nobody else can have put or changed it, and nowhere else."""
    os.chown(home, owner, owner)
    home.chmod(mode)
    (home / "run").chmod(run_mode)
    before = snapshot(home)
    if accepted:
        use(home / "run")
        return
    with pytest.raises(UsageError, match=f"run belongs to user {NOBODY}, but this run works as user 0,"):
        use(home / "run")
    assert snapshot(home) == before


@AS_ROOT
def test_a_sticky_folder_is_safe_where_its_entry_is_roots(home: Path) -> None:
    """Below /tmp, in a folder of root's, another user's run can be continued: nobody else can rename that folder."""
    home.parent.chmod(0o1777)
    use(home / "run")
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(UsageError, match="belongs to user"):
        use(home / "run")


@AS_ROOT
@pytest.mark.parametrize(
    ("link", "accepted"), [("safe", True), ("open", False), ("chain", False), ("dots", True), ("loop", False)]
)
def test_root_looks_at_each_folder_on_the_way(home: Path, link: str, accepted: bool) -> None:
    """A link on the way is as safe as the folder that it lies in, also where one leads to the next."""
    base = home.parent
    for name, owner in (("safe", 0), ("open", SOMEBODY), ("chain", 0), ("dots", 0), ("loop", 0)):
        (base / name).mkdir(mode=0o755)
        os.chown(base / name, owner, owner)
    (base / "safe" / "way").symlink_to(home / "run")
    (base / "open" / "way").symlink_to(home / "run")
    (base / "chain" / "way").symlink_to("../open/way")
    (base / "dots" / "way").symlink_to("../safe/../home/./run")
    (base / "loop" / "way").symlink_to("way")
    if accepted:
        use(base / link / "way")
        return
    with pytest.raises(UsageError, match=f"belongs to user {NOBODY}|Too many levels|File exists"):
        use(base / link / "way")


AS_USER = """
import os, sys
from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.run_directory import RunDirectory
os.setegid(int(sys.argv[2]))
os.seteuid(int(sys.argv[2]))
try:
    RunDirectory.open(sys.argv[1], pipeline="p").close()
except UsageError as error:
    print(error)
else:
    print("used")
"""


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@AS_ROOT
@pytest.mark.parametrize(
    ("owner", "lock", "said"),
    [
        (NOBODY, None, "used"),
        (NOBODY, NOBODY, "used"),
        (0, None, "used"),  # as an administrator makes a folder for all
        (SOMEBODY, None, f"run belongs to user {SOMEBODY}, but this run works as user {NOBODY},"),
        (NOBODY, 0, f"run/.lock belongs to user 0, but this run works as user {NOBODY},"),
        (NOBODY, SOMEBODY, f"run/.lock belongs to user {SOMEBODY}, but this run works as user {NOBODY},"),
    ],
)
def test_a_user_works_in_a_folder_of_his_own_or_of_roots(
    everybodys: Path, owner: int, lock: int | None, said: str
) -> None:
    """An ordinary user uses folders of his own and of root's, and no lock file but his own."""
    folder = everybodys / "run"
    folder.mkdir()
    folder.chmod(0o777)
    os.chown(folder, owner, owner)
    if lock is not None:
        (folder / ".lock").touch()
        (folder / ".lock").chmod(0o666)
        os.chown(folder / ".lock", lock, lock)
    command = [sys.executable, "-P", "-c", AS_USER, str(folder), str(NOBODY)]
    assert said in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["run.json", "ledger.parquet"])
@pytest.mark.parametrize("stand_in", ["fifo", "link to a FIFO", "folder", "nothing"])
def test_reading_the_result_of_a_run_waits_for_nothing(tmp_path: Path, name: str, stand_in: str) -> None:
    """When the command reads a finished run, what is no regular file is an error at once."""
    use(tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    if stand_in == "fifo":
        os.mkfifo(path)
    elif stand_in == "link to a FIFO":
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    elif stand_in == "folder":
        path.mkdir()
    with pytest.raises(RunFailed, match=f"run cannot be read: .*{name}"):
        read_finished(tmp_path / "run", 1.0)
