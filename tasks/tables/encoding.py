"""A file's bytes as UTF-8 text: hashed, decompressed and transcoded on the way, in blocks."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect_fanout.tasks.tables.faults import FileFault
from prefect_fanout.tasks.tables.sources import open_file

RAW_BYTES = 1 << 20
"""Bytes per read from a compressed or transcoded file, and per piece that is decompressed."""

HEAD_BYTES = 4096
"""How much of a file is looked at for magic bytes and for text without a byte order mark."""

BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SINGLE_BYTE = """
cp037 cp1006 cp1026 cp1125 cp1140 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp273 cp424 cp437 cp500
cp720 cp737 cp775 cp850 cp852 cp855 cp856 cp857 cp858 cp860 cp861 cp862 cp863 cp864 cp865 cp866 cp869 cp874 cp875
hp-roman8 iso8859-1 iso8859-10 iso8859-11 iso8859-13 iso8859-14 iso8859-15 iso8859-16 iso8859-2 iso8859-3 iso8859-4
iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-9 koi8-r koi8-t koi8-u kz1048 mac-arabic mac-croatian mac-cyrillic
mac-farsi mac-greek mac-iceland mac-latin2 mac-roman mac-romanian mac-turkish palmos ptcp154 tis-620
"""
_EAST_ASIAN = """
big5 big5hkscs cp932 cp949 cp950 euc_jis_2004 euc_jisx0213 euc_jp euc_kr gb18030 gb2312 gbk johab shift_jis
shift_jis_2004 shift_jisx0213
"""

FALLBACK_ENCODINGS = frozenset((_SINGLE_BYTE + _EAST_ASIAN).split())
"""Encodings in which text beyond ASCII is hardly ever valid UTF-8, by the names of Python's codecs. A file is read in
one of them only if it is not UTF-8; any other encoding, such as utf-16, is used as it was named."""

DAMAGE = 10
"""A text that has so many valid characters beyond ASCII for each invalid byte is UTF-8 with some damage, whatever the
fallback. Text in another encoding has at most 0.4, measured on random common characters of 16 of them."""

APPLE_DOUBLE = b"\x00\x05\x16\x07"
GZIP = b"\x1f\x8b"
OTHER_ARCHIVES = {b"PK\x03\x04": "zip", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class NotUtf8(Exception):
    """A file that was read as UTF-8 and is not; it has to be read again, in its fallback encoding."""


class TextSource:
    """One file, read once from start to end as UTF-8 text.

    Bytes that cannot be decoded in a declared encoding are passed on as they are, so that they are found again as
    invalid UTF-8 in their own record. Offsets of a compressed or transcoded file count in the text that is read here.

    `bytes_in` counts the file's own bytes and `text_bytes` the text, as far as they were read.

    Args:
        path: The file.
        encoding: The declared encoding; None is UTF-8. A byte order mark overrules it.
        fallback: Encoding for a file that turns out not to be UTF-8.
        within: The folder that is not left when the file is opened; see `sources.open_file`.

    Raises:
        NotUtf8: From `read`: there is a fallback, and the file is not UTF-8 as far as it was read.
        FileFault: From the constructor or `read`: the file vanished, cannot be read, is compressed in a way that is
            not read here, is damaged, or is not text in the encoding.
    """

    def __init__(
        self, path: Path, encoding: str | None = None, *, fallback: str | None = None, within: Path | None = None
    ) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        try:
            self._file = open_file(path, within)
        except OSError as error:
            if within and error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise FileFault(
                    "outside_folder", f"{path} was a file when the run began; now there is a link, and it was not read."
                ) from error
            raise _unreadable(path, error) from error
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            self._file.close()
            raise FileFault("unreadable", f"{path} is not a regular file; give a file that can be read more than once.")
        self.bytes_in = 0
        self.text_bytes = 0
        self.mtime_ns = status.st_mtime_ns
        self.encoding = encoding or "utf-8"
        self.compression: str | None = None
        self._pieces: Iterator[bytes] | None = None
        self._left = b""
        self._checked = fallback is not None
        self._cut, self._beyond_ascii, self._invalid = b"", 0, 0
        try:
            self._detect()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes of text; fewer only at the end of the file, none when it is over."""
        text = bytearray(size)
        with memoryview(text) as view:
            count = self.readinto(view)
        return bytes(text[:count])

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer with the next bytes of text; fewer than fit only at the end of the file, 0 when it is over."""
        count = self._take_left(buffer)
        while count < len(buffer):
            if self._pieces is None:
                more = self._read_raw_into(buffer[count:])
            else:
                self._left = next(self._pieces, b"")
                more = self._take_left(buffer[count:])
            if not more:
                break
            count += more
        self.text_bytes += count
        if self._checked:
            self._check(buffer[:count], final=count < len(buffer))
        return count

    def _check(self, text: memoryview, *, final: bool) -> None:
        """Raise NotUtf8 if there are too many bytes that are not UTF-8 in the text so far."""
        for start in range(0, len(text) or 1, RAW_BYTES):
            piece, self._cut = self._cut + bytes(text[start : start + RAW_BYTES]), b""
            if piece.isascii():
                continue
            decoded, used = codecs.utf_8_decode(piece, "surrogateescape", final and start + RAW_BYTES >= len(text))
            self._cut = piece[used:]
            self._invalid += used - len(decoded.encode("utf-8", "ignore"))
            self._beyond_ascii += used - len(decoded)  # one for each valid character, or two or three for a long one
            if self._invalid * DAMAGE > self._beyond_ascii:
                raise NotUtf8

    def _take_left(self, buffer: memoryview) -> int:
        count = min(len(self._left), len(buffer))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    @property
    def sha256(self) -> str:
        """The digest of the file's own bytes, as far as they were read."""
        return self._hash.hexdigest()

    def _read_raw(self, size: int) -> bytes:
        data = bytearray(size)
        with memoryview(data) as view:
            count = self._read_raw_into(view)
        return bytes(data[:count])

    def _read_raw_into(self, buffer: memoryview) -> int:
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if count is None:  # nothing at the moment: a file that the kernel makes up, such as /proc/kmsg
            raise FileFault("unreadable", f"{self._path} gives its bytes only now and then. Save them to a file first.")
        self._hash.update(buffer[:count])
        self.bytes_in += count
        return count

    def _detect(self) -> None:
        head = self._read_raw(HEAD_BYTES)
        if head.startswith(APPLE_DOUBLE):
            raise FileFault(
                "apple_double",
                f"{self._path} is no table: a Mac keeps the attributes of another file in it (AppleDouble). The table "
                "is the file of the same name without ._ before it. Leave this one out.",
            )
        for magic, name in OTHER_ARCHIVES.items():
            if head.startswith(magic):
                raise FileFault(
                    "compressed", f"{self._path} is a {name} file; only plain and gzip files are read. Decompress it."
                )
        if head.startswith(GZIP):
            self.compression = "gzip"
            self._pieces = self._gunzip(head)
            head = b""
            while len(head) < HEAD_BYTES and (piece := next(self._pieces, b"")):
                head += piece
        declared = self.encoding
        for mark, name in BYTE_ORDER_MARKS:
            if head.startswith(mark):
                self.encoding = name
                self._checked = False
                if name == "utf-8":
                    head = head[len(mark) :]
                break
        if self.encoding != "utf-8":
            self._pieces = self._transcode(head, self._pieces)
            head = b""
        elif declared == "utf-8" and head.count(0, 0, HEAD_BYTES) * 4 > len(head[:HEAD_BYTES]):
            raise FileFault(
                "encoding",
                f"{self._path} has a zero byte in every few: it looks like UTF-16 or UTF-32 without a byte order "
                "mark. Name its encoding (--encoding), for example utf-16-le.",
            )
        self._left = head

    def _gunzip(self, first: bytes) -> Iterator[bytes]:
        member = zlib.decompressobj(wbits=31)
        raw = first
        while raw:
            while raw:
                if member.eof:
                    raw = raw.lstrip(b"\0")  # members may be padded with zeros, as tape archives are
                    if not raw:
                        break
                    member = zlib.decompressobj(wbits=31)
                try:
                    piece = member.decompress(raw, RAW_BYTES)
                except zlib.error as error:
                    raise FileFault(
                        "damaged_gzip",
                        f"{self._path} is damaged near byte {self.bytes_in - len(raw)} ({error}); nothing of it was "
                        "kept. Fetch it again.",
                    ) from error
                raw = member.unused_data if member.eof else member.unconsumed_tail
                if piece:
                    yield piece
            raw = self._read_raw(RAW_BYTES)
        if not member.eof:
            raise FileFault(
                "truncated_gzip",
                f"{self._path} ends in the middle of its compressed data, after {self.bytes_in} bytes; nothing of it "
                "was kept. Fetch it again.",
            )

    def _transcode(self, head: bytes, pieces: Iterator[bytes] | None) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(self.encoding)(errors="surrogateescape")
        piece: bytes = head
        try:
            while piece:
                text = decoder.decode(piece)
                if text:
                    yield text.encode("utf-8", "surrogateescape")
                piece = self._read_raw(RAW_BYTES) if pieces is None else next(pieces, b"")
            rest = decoder.decode(b"", final=True)
            if rest:
                yield rest.encode("utf-8", "surrogateescape")
        except UnicodeError as error:
            raise FileFault(
                "encoding",
                f"{self._path} is not {self.encoding} near byte {self.bytes_in} ({error}); name its true encoding.",
            ) from error


def _unreadable(path: Path, error: OSError) -> FileFault:
    if isinstance(error, FileNotFoundError):
        return FileFault("vanished", f"{path} was there when the run began and is gone now; run again without it.")
    reason = error.strerror or str(error)
    return FileFault("unreadable", f"{path} cannot be read ({reason}); check its permissions and its disk.")
