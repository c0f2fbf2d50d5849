"""What a user named, as a list of files."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect_fanout._errors import UsageError

STEM_CHARACTERS = 80
"""How much of a file's name goes into the name of its output."""

EXTENSIONS = re.compile(r"(\.(csv|tsv|tab|txt|psv|dat))?(\.gz)?\Z", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file.

    Args:
        index: Its position in the input, from 0.
        source: Its path as the user gave it or as the pattern found it.
        path: Its absolute path, symbolic links resolved: what identifies it.
        duplicate_of: The `source` that named the same file earlier, or None.
        repeat: How often the file was named before.
    """

    index: int
    source: str
    path: Path
    duplicate_of: str | None = None
    repeat: int = 0

    @property
    def key(self) -> str:
        """The absolute path; ``path#2`` for the second time the same file is named."""
        return str(self.path) if not self.repeat else f"{self.path}#{self.repeat + 1}"

    @property
    def output_name(self) -> str:
        """A name for what is made of it: readable, and unique by a short digest of its path."""
        stem = EXTENSIONS.sub("", self.path.name)
        readable = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:STEM_CHARACTERS] or "file"
        return f"{readable}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:10]}"


def find_sources(sources: Sequence[str | Path] | str | Path) -> list[SourceFile]:
    """Expand files and patterns, in the order given, each pattern's matches by name.

    The list takes some 500 bytes per file; it is the one thing here that grows with the number of files.

    Args:
        sources: Paths of files, or patterns with ``*``, ``?``, ``[...]`` or ``**``. A file whose name holds such
            characters is taken as it is.

    Raises:
        UsageError: Nothing was named, a file is missing or not readable, or a pattern matches no file.
    """
    named = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not named:
        raise UsageError("Expected at least one CSV file or pattern, got an empty list. Name a file.")
    found: list[SourceFile] = []
    seen: dict[Path, tuple[str, int]] = {}
    for name in named:
        for source in _expand(str(name)):
            path = Path(os.path.realpath(source))
            first, repeat = seen.get(path, (source, -1))
            repeat += 1
            seen[path] = (first, repeat)
            found.append(
                SourceFile(
                    index=len(found),
                    source=source,
                    path=path,
                    duplicate_of=first if repeat else None,
                    repeat=repeat,
                )
            )
    return found


def _expand(name: str) -> Iterator[str]:
    if not name.strip() or "\0" in name:
        raise UsageError(f"Expected the path of a CSV file or a pattern, got {name!r}. Name a file.")
    if "://" in name:
        raise UsageError(f"Expected the path of a local file, got the address {name!r}. Download it first.")
    name = os.path.expanduser(name)  # noqa: PTH111 - Path would also drop a leading ./ that the user wrote
    if os.path.lexists(name):
        _check(name)
        yield name
        return
    if not glob.has_magic(name):
        raise UsageError(f"There is no file {name!r}. Check the path, or give a pattern such as 'exports/*.csv'.")
    # a pattern for files that matches folders too, such as '*', means the files
    matches = [match for match in sorted(glob.iglob(name, recursive=True)) if not Path(match).is_dir()]  # noqa: PTH207 - Path.glob takes no absolute patterns
    if not matches:
        raise UsageError(
            f"The pattern {name!r} matches no file. Check it, and quote it so that the shell leaves it alone."
        )
    for match in matches:
        _check(match)
        yield match


def _check(name: str) -> None:
    try:
        mode = Path(name).stat().st_mode
    except OSError as error:
        raise UsageError(f"The file {name!r} cannot be read: {error.strerror}. Check the path.") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name!r} is a folder. Name the files in it with a pattern: {os.path.join(name, '*.csv')!r}.")  # noqa: PTH118 - text for a person
    if not stat.S_ISREG(mode):
        raise UsageError(f"{name!r} is not a regular file. Save what it gives to a file first.")
    if not os.access(name, os.R_OK):
        raise UsageError(f"The file {name!r} may not be read by this user. Change its permissions.")
