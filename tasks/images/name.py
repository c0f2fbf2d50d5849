"""File names for images: readable, safe on every usual file system, and one per URL."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import unquote, urlsplit

MAX_BASE_BYTES = 100
"""Room for the readable part. With at most 25 marks, hash and extension it stays far below the usual 255 bytes."""
HASH_CHARACTERS = 16
"""64 bits: for a hundred million URLs, the chance that any two share a hash is below 0.03 %."""

_UNSAFE = re.compile(r"[^\w.+=,@()-]+")
_IMAGE_EXTENSION = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|gif|avif|bmp|tiff?|svg|heic|php|aspx?)$", re.IGNORECASE)

_SPLIT_WORD = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9])"
)
"""The words for splits, between characters that `datasets` takes for the ends of a word; in lower case only."""


def file_name(key: str, extension: str) -> str:
    """The name of an image file: what the URL calls it, a hash of the URL, and what it really is.

    The name depends on nothing else, so a rerun writes the same file; the hash keeps names apart that differ only by
    case, by Unicode form or by host. A word that names a split of a data set gets a "~" behind it: Hugging Face
    `datasets` would load the files with such a word and ignore all others.

    Args:
        key: URL in normal form.
        extension: Extension of the true format, with its dot.
    """
    parts = urlsplit(key)
    last = unquote(parts.path, errors="replace").replace("\\", "/").rstrip("/").rpartition("/")[2]
    base = _IMAGE_EXTENSION.sub("", last)
    base = unicodedata.normalize("NFC", base).replace("\ufffd", "_")
    base = _UNSAFE.sub("_", base).strip("._-+=,@ ")
    base = _SPLIT_WORD.sub(r"\1~", _cut(base))
    return f"{base or 'image'}-{url_hash(key)}{extension}"


def url_hash(key: str) -> str:
    """Hash of a URL in normal form, in lower-case hex (some file systems ignore case)."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=HASH_CHARACTERS // 2).hexdigest()


def _cut(base: str) -> str:
    """The longest beginning that fits, whole characters only."""
    return base.encode()[:MAX_BASE_BYTES].decode(errors="ignore").rstrip("._-+=,@ ")
