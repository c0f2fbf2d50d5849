"""The bytes of a download, in memory and in a file, and a disk that refuses."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_fanout.tasks.images import body as body_module
from prefect_fanout.tasks.images.body import Body


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 1000])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_bytes_come_back_as_they_were(tmp_path: Path, size: int, block: int) -> None:
    """Below, at and above the memory limit the file holds exactly what was written."""
    data = bytes(number % 251 for number in range(size))
    body = Body(tmp_path, memory_bytes=10)
    for start in range(0, size, block):
        body.write(data[start : start + block])
    assert (body.size, body.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert body.open().read() == data
    body.save(tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("size", [0, 10, 11])
def test_a_file_of_an_earlier_run_is_replaced(
    tmp_path: Path, size: int, unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved bytes take the place of a file with their name, also where the system makes no files without a name."""
    if not unnamed:
        monkeypatch.setattr(body_module, "_UNNAMED", 0)
    for content in (b"a" * size, b"b" * size):
        body = Body(tmp_path, memory_bytes=10)
        body.write(content)
        body.save(tmp_path / "final")
        assert (tmp_path / "final").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_saved_file_has_the_usual_permissions(tmp_path: Path) -> None:
    """What others may read is decided by the umask, as for every file, and not by how the file came to its name."""
    (tmp_path / "usual").touch()
    body = Body(tmp_path)
    body.write(b"x")
    body.save(tmp_path / "final")
    assert (tmp_path / "final").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("size", [5, 50])
def test_a_cleared_body_starts_anew(tmp_path: Path, size: int) -> None:
    """After a failed try nothing of it is left."""
    body = Body(tmp_path, memory_bytes=10)
    body.write(b"x" * size)
    body.clear()
    assert list(tmp_path.iterdir()) == []
    body.write(b"new")
    assert (body.size, body.open().read(), body.sha256) == (3, b"new", hashlib.sha256(b"new").hexdigest())


def test_a_closed_body_leaves_nothing(tmp_path: Path) -> None:
    """A body that is not saved removes its file, however often it is closed."""
    body = Body(tmp_path, memory_bytes=1)
    body.write(b"xyz")
    assert len(list(tmp_path.iterdir())) == 1
    body.close()
    body.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory_bytes", [10, 1_000_000])
def test_a_full_disk_is_a_failed_run(tmp_path: Path, memory_bytes: int) -> None:
    """When the system refuses more bytes, the error says so and no file is left, not even a temporary one."""
    program = f"""
import resource
from pathlib import Path
from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.images.body import Body
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
body = Body(Path({str(tmp_path)!r}), memory_bytes={memory_bytes})
try:
    for _ in range(20):
        body.write(b"x" * 10_000)
    body.save(Path({str(tmp_path / "final")!r}))
except RunFailed as error:
    print(error)
    try:
        body.close()
    except RunFailed:
        pass
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert "could not be written" in done.stdout
    assert "start the run again" in done.stdout
    assert list(tmp_path.iterdir()) == []
