from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import pytest

from prefect_fanout.tasks.tables.encoding import HEAD_BYTES, TextSource
from prefect_fanout.tasks.tables.faults import FileFault


def _read_all(path: Path, encoding: str | None = None, size: int = 1000) -> tuple[bytes, str]:
    with TextSource(path, encoding) as source:
        text = b""
        while piece := source.read(size):
            assert len(piece) == size or not source.read(1)
            text += piece
        assert source.text_bytes == len(text)
        assert source.bytes_in == path.stat().st_size
        return text, source.encoding


@pytest.mark.parametrize("length", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 3 * HEAD_BYTES])
def test_plain_text_is_read_as_it_is(tmp_path: Path, length: int) -> None:
    """No byte is lost or doubled around the part that is looked at first."""
    path = tmp_path / "a.csv"
    path.write_bytes(os.urandom(length).hex()[:length].encode())
    assert _read_all(path) == (path.read_bytes(), "utf-8")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, codec: str) -> None:
    """Text with a mark arrives as UTF-8 without one, also when another encoding was declared."""
    path = tmp_path / "a.csv"
    text = "näme,💡\n" * 2000
    path.write_bytes(text.encode(codec))
    assert _read_all(path)[0].decode() == text
    assert _read_all(path, "cp1252")[0].decode() == text


def test_a_declared_encoding_is_used(tmp_path: Path) -> None:
    """Windows text is transcoded only when it is declared; a byte without meaning in it stays invalid."""
    path = tmp_path / "a.csv"
    path.write_bytes("näme,€\n".encode("cp1252") + b"\x81\n")
    assert _read_all(path, "cp1252")[0] == "näme,€\n".encode() + b"\x81\n"
    assert _read_all(path)[0] == path.read_bytes()


def test_utf_16_without_a_mark_is_refused_until_declared(tmp_path: Path) -> None:
    """Text that is half zero bytes fails with a hint instead of becoming a table of zeros."""
    path = tmp_path / "a.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    with pytest.raises(FileFault, match="utf-16-le") as caught:
        _read_all(path)
    assert caught.value.kind == "encoding"
    assert _read_all(path, "utf-16-le")[0] == b"a,b\n1,2\n"


def test_a_cut_utf_16_file_is_a_fault(tmp_path: Path) -> None:
    """Half a character at the end is an error, not a missing character."""
    path = tmp_path / "a.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16")[:-1])
    with pytest.raises(FileFault, match="is not utf-16"):
        _read_all(path)


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("padding", [b"", b"\0" * 700])
def test_gzip_is_known_by_its_magic_and_read_to_the_last_member(tmp_path: Path, members: int, padding: bytes) -> None:
    """Whatever the file is called, all members are read, and zeros after them are ignored."""
    path = tmp_path / "a.csv"
    text = b"a,b\n" + b"1,2\n" * 100_000
    path.write_bytes(gzip.compress(text) * members + padding)
    assert _read_all(path, size=65536) == (text * members, "utf-8")


def test_gzip_may_hold_text_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Compression and encoding are told apart one after the other."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(("a,b\n" * 5000).encode("utf-16")))
    assert _read_all(path)[0] == b"a,b\n" * 5000


@pytest.mark.parametrize("cut", [3, 12, 100, -1])
def test_a_truncated_gzip_file_is_a_fault(tmp_path: Path, cut: int) -> None:
    """A file that ends within its compressed data is refused, wherever it ends."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(os.urandom(500).hex().encode())[:cut])
    with pytest.raises(FileFault, match="ends in the middle") as caught:
        _read_all(path)
    assert caught.value.kind == "truncated_gzip"


def test_damaged_gzip_and_trailing_garbage_are_faults(tmp_path: Path) -> None:
    """A flipped byte and bytes that are no further member are refused."""
    path = tmp_path / "a.csv.gz"
    good = bytearray(gzip.compress(b"a,b\n" * 500))
    path.write_bytes(bytes(good) + b"garbage")
    with pytest.raises(FileFault, match="damaged"):
        _read_all(path)
    good[-6] ^= 0xFF
    path.write_bytes(bytes(good))
    with pytest.raises(FileFault, match="damaged"):
        _read_all(path)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"BZh91AY&SY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"])
def test_other_archives_are_refused_by_name(tmp_path: Path, magic: bytes) -> None:
    """A compressed file that is not read here fails with advice, whatever its name."""
    path = tmp_path / "a.csv"
    path.write_bytes(magic + b"rest")
    with pytest.raises(FileFault, match="Decompress it"):
        _read_all(path)


def test_a_file_that_gives_bytes_only_now_and_then_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's log, /proc/kmsg, is a regular file to the eye, and has nothing to read at most times."""

    class Log(io.FileIO):
        def readinto(self, _: object) -> None:
            return None  # as the true one does; reading that would take its lines from whoever collects them

    (tmp_path / "kmsg").touch()
    monkeypatch.setattr(os, "fdopen", lambda descriptor, *_, **__: Log(descriptor))
    with pytest.raises(FileFault, match="only now and then") as caught:
        TextSource(tmp_path / "kmsg")
    assert caught.value.kind == "unreadable"


def test_a_vanished_file_and_a_pipe_are_faults(tmp_path: Path) -> None:
    """Neither hangs nor raises an error of the operating system."""
    with pytest.raises(FileFault, match="gone now"):
        TextSource(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(FileFault, match="not a regular file"):
        TextSource(tmp_path / "pipe.csv")
    with pytest.raises(FileFault, match="cannot be read"):
        TextSource(tmp_path)
