from __future__ import annotations

import codecs
import contextlib
import encodings
import gzip
import io
import os
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.tables.encoding import FALLBACK_ENCODINGS, HEAD_BYTES, NotUtf8, TextSource
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


def test_the_fallback_encodings_are_all_that_python_knows_of_their_kind() -> None:
    """Each by the name of its codec; none of one byte a character is forgotten."""
    assert {codecs.lookup(name).name for name in FALLBACK_ENCODINGS} == FALLBACK_ENCODINGS
    known = set()
    for module in pkgutil.iter_modules(encodings.__path__):
        with contextlib.suppress(LookupError, UnicodeError):
            name = codecs.lookup(module.name).name
            if all(len(bytes([byte]).decode(name, "replace")) == 1 for byte in range(256)):
                known.add(name)
    no_fallback = re.compile(r"utf-.*|ascii|charmap|iso2022_.*|hz|(raw-)?unicode-escape|mbcs|oem|cp65001")
    assert {name for name in known if not no_fallback.fullmatch(name)} <= FALLBACK_ENCODINGS


def _fallen_back(path: Path, fallback: str, size: int = 1000) -> bool:
    with TextSource(path, fallback=fallback) as source:
        try:
            while source.read(size):
                pass
        except NotUtf8:
            return True
    return False


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
@pytest.mark.parametrize(
    ("text", "fallback", "expected"),
    [
        (b"plain\n" * 3000, "cp1252", False),
        ("José,Zürich,東京,💡\n".encode() * 1000, "cp1252", False),
        ("José\n".encode("cp1252"), "cp1252", True),
        (b"plain\n" * 3000 + "José\n".encode("cp1252"), "cp1252", True),
        (b"plain\n" * 3000 + b"\xc3", "cp1252", True),  # cut in the middle of a character, or \u00c3 at the end
        ("東京都千代田区\n".encode("shift_jis"), "shift_jis", True),
        ("北京大学,联通公司\n".encode("gbk") * 300, "gbk", True),
        ("José,".encode() * 300 + "José\n".encode("cp1252"), "cp1252", False),
        ("José,".encode() * 9 + "José\n".encode("cp1252"), "cp1252", True),
        ("José,".encode() * 10 + "José\n".encode("cp1252"), "cp1252", False),
    ],
)
def test_a_fallback_is_for_files_that_are_not_utf_8(
    tmp_path: Path, text: bytes, fallback: str, expected: bool, size: int
) -> None:
    """Wherever the first byte is that cannot be UTF-8, and however it is read; some damage in UTF-8 is no encoding."""
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    assert _fallen_back(path, fallback, size) == expected


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_needs_no_fallback(tmp_path: Path, codec: str) -> None:
    """The mark says what the file is, also of a damaged one."""
    path = tmp_path / "a.csv"
    path.write_bytes("José\n".encode(codec) + (b"\xff\n" if codec == "utf-8-sig" else b""))
    assert not _fallen_back(path, "cp1252")


def test_an_apple_double_file_is_called_so(tmp_path: Path) -> None:
    """Such files lie beside the true ones in archives that a Mac has made; they are no text in any encoding."""
    path = tmp_path / "._a.csv"
    path.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100))
    for encoding in (None, "utf-16-le"):
        with pytest.raises(FileFault, match="AppleDouble") as caught:
            _read_all(path, encoding)
        assert caught.value.kind == "apple_double"


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


# --- whole files, with the fallback that a user names ---------------------------------------------------------------


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_naming_an_encoding_leaves_files_that_are_known_alone(ingest: Any, codec: str) -> None:
    """UTF-8 is known by its bytes and the others by their mark, so one option fits a folder of all kinds."""
    done = ingest("name,v\nJosé,1\n".encode(codec), encoding="cp1252")
    assert (done.rows, done.row["rejected"]) == ([("José", 1)], 0)
    assert done.row["encoding"] == codec.removesuffix("-sig")


@pytest.mark.parametrize("codec", ["cp1252", "mac-roman", "iso8859-15", "koi8-r", "shift_jis", "gb18030", "big5"])
def test_other_files_are_read_in_the_encoding_that_was_named(ingest: Any, codec: str) -> None:
    """Header and values; the ledger says so."""
    word = {"koi8-r": "Москва", "shift_jis": "東京", "gb18030": "北京", "big5": "臺北"}.get(codec, "Zürich")
    done = ingest(f"{word},v\n{word},1\n".encode(codec), encoding=codec)
    assert (done.rows, list(done.columns), done.row["encoding"]) == ([(word, 1)], [word, "v"], codec)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("conflict", ["reject", "string"])
def test_the_first_byte_that_is_not_utf_8_may_be_the_last(ingest: Any, compressed: bool, conflict: str) -> None:
    """Far behind everything that was written by then; the file is read again, and nothing of the first time is kept."""
    text = b"a,b\n" + b"1,plain\n" * 300_000 + "2,José\n".encode("cp1252")
    content = gzip.compress(text, 1) if compressed else text
    done = ingest(content, encoding="cp1252", block_bytes=4096, on_type_conflict=conflict)
    assert (done.row["rows_in"], done.row["rejected"], done.row["encoding"]) == (300_001, 0, "cp1252")
    assert done.table.slice(300_000).to_pylist() == [{"a": 2, "b": "José"}]
    assert done.left_behind == [done.row["path"]]


def test_damage_in_utf_8_does_not_mangle_the_file(ingest: Any) -> None:
    """A file of UTF-8 with one line in something else keeps its text; that line is a reject, as without a fallback."""
    done = ingest(b"name,v\n" + "José,1\n".encode() * 50 + b"Jos\xe9,2\n", encoding="cp1252")
    assert set(done.rows) == {("José", 1)}
    assert [reject["reason"] for reject in done.rejects] == ["invalid_utf8"]
    assert done.row["encoding"] == "utf-8"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf_16_and_utf_32_are_used_as_they_were_named(ingest: Any, codec: str) -> None:
    """Text without a mark cannot be told from other text for certain, so what the user says counts."""
    done = ingest("name,v\nJosé,1\n".encode(codec), encoding=codec)
    assert (done.rows, done.row["encoding"]) == ([("José", 1)], codec)
    assert ingest(b"name,v\nx,1\n", encoding=codec).row["status"] == "failed"
