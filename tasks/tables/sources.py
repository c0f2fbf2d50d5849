"""The files that a user named: found by name or by pattern, and opened without leaving the folder of their pattern."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.tables.faults import FileFault

STEM_CHARACTERS = 80
"""How much of a file's name goes into the name of its output."""

EXTENSIONS = re.compile(r"(\.(csv|tsv|tab|txt|psv|dat))?(\.gz)?\Z", re.IGNORECASE)

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: a named pipe without a writer must be an error, not a wait without end."""

FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
"""O_PATH, where the system has it: a folder that may be entered but not listed is no obstacle."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file.

    Args:
        index: Its position in the input, from 0.
        source: Its path as the user gave it or as the pattern found it.
        path: Its absolute path, symbolic links resolved: what identifies it. Of a match with a problem only its
            pattern's folder is resolved, so that it is known by its own place and not by where it leads.
        duplicate_of: The `source` that named the same file earlier, or None.
        repeat: How often the file was named before.
        within: The folder of the pattern that found it, which is not left when it is opened; None for a file that was
            named outright, and for every file with `follow_links`.
        problem: Why a match of a pattern is not read; None for a file to read.
    """

    index: int
    source: str
    path: Path
    duplicate_of: str | None = None
    repeat: int = 0
    within: Path | None = None
    problem: FileFault | None = None

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


@dataclass(frozen=True, kw_only=True)
class _Match:
    """A file before it has its position in the input; the attributes are those of `SourceFile`."""

    source: str
    path: Path
    within: Path | None = None
    problem: FileFault | None = None


def find_sources(sources: Sequence[str | Path] | str | Path, *, follow_links: bool = False) -> list[SourceFile]:
    """Expand files and patterns, in the order given, each pattern's matches by name.

    A match of a pattern that cannot be read, or that leads out of the folder before the pattern's first magic
    character, is in the list with its `problem`. The list takes some 500 bytes per file; it is the one thing here that
    grows with the number of files.

    Args:
        sources: Paths of files, or patterns with ``*``, ``?``, ``[...]`` or ``**``, which enters no linked folder. A
            file whose name is a pattern is found too.
        follow_links: Read also matches of a pattern that lead out of its folder.

    Raises:
        UsageError: Nothing was named, a file that was named outright is missing or not readable, or a pattern matches
            no file.
    """
    named = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not named:
        raise UsageError("Expected at least one CSV file or pattern, got an empty list. Name a file.")
    found: list[SourceFile] = []
    seen: dict[Path, tuple[str, int]] = {}
    for name in named:
        for match in _expand(str(name), follow_links):
            first, repeat = seen.get(match.path, (match.source, -1))
            repeat += 1
            seen[match.path] = (first, repeat)
            found.append(
                SourceFile(
                    index=len(found),
                    source=match.source,
                    path=match.path,
                    duplicate_of=first if repeat else None,
                    repeat=repeat,
                    within=match.within,
                    problem=match.problem,
                )
            )
    return found


def open_file(path: Path, within: Path | None = None) -> io.FileIO:
    """Open a file of any type for reading.

    The path was resolved when the file was found. A name on it that became a link since then is followed only without
    `within`.

    Args:
        path: The file.
        within: A folder above it, resolved: each name below is opened by itself, and none may be a link.

    Raises:
        OSError: It cannot be opened; ELOOP or ENOTDIR if there is a link below `within`.
    """
    if within is None:
        return os.fdopen(os.open(path, OPEN_FLAGS), "rb", buffering=0)
    *folders, name = path.relative_to(within).parts
    folder = os.open(within, FOLDER_FLAGS)
    try:
        for step in folders:
            below = os.open(step, FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.fdopen(os.open(name, OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder), "rb", buffering=0)
    finally:
        os.close(folder)


def _expand(name: str, follow_links: bool) -> Iterator[_Match]:
    if not name.strip() or "\0" in name:
        raise UsageError(f"Expected the path of a CSV file or a pattern, got {name!r}. Name a file.")
    if "://" in name:
        raise UsageError(f"Expected the path of a local file, got the address {name!r}. Download it first.")
    name = os.path.expanduser(name)  # noqa: PTH111 - Path would also drop a leading ./ that the user wrote
    if glob.has_magic(name):
        yield from _matches(name, follow_links)
        return
    if not os.path.lexists(name):
        raise UsageError(f"There is no file {name!r}. Check the path, or give a pattern such as 'exports/*.csv'.")
    if problem := _problem(name):
        raise UsageError(problem.message)
    yield _Match(source=name, path=Path(os.path.realpath(name)))


def _matches(pattern: str, follow_links: bool) -> Iterator[_Match]:
    """Yield the files that match a pattern, by name; raise UsageError if there is none."""
    parts = pattern.split("/")
    fixed = next(position for position, part in enumerate(parts) if glob.has_magic(part))
    prefix = "".join(f"{part}/" for part in parts[:fixed])
    folder = Path(os.path.realpath(prefix or "."))
    within = None if follow_links else folder
    walk = _Walk(prefix, within)
    names = walk.run([part for part in parts[fixed:-1] if part] + parts[-1:])
    if os.path.lexists(pattern):
        names.add(pattern)  # a file of this very name; alone, it would hide the files that the pattern is for
    parents = {name.rpartition("/")[0] for name in names}
    matches = 0
    for name in sorted(names):
        path = Path(os.path.realpath(name))
        if name in walk.faults:
            problem: FileFault | None = walk.faults[name]
        elif _is_folder(name) and (name in parents or not _named_as_file(name)):
            continue  # a pattern for files that matches folders too, such as '*', means the files
        elif within and not path.is_relative_to(within):
            problem = _outside(name, prefix)
        else:
            problem = _problem(name)
        matches += 1
        place = folder / name[len(prefix) :]
        yield _Match(source=name, path=place if problem else path, within=within, problem=problem)
    if not matches:
        raise UsageError(
            f"The pattern {pattern!r} matches no file. Check it, and quote it so that the shell leaves it alone."
        )


class _Walk:
    """The paths below a folder that match a pattern.

    A folder on the way that cannot be listed, or that is a link that leads out, is among them: `faults` says why it was
    not entered.

    Args:
        prefix: The folder as the user wrote it, with a slash at its end; empty for the current one.
        within: The same folder, resolved; None to follow links out of it.
    """

    def __init__(self, prefix: str, within: Path | None) -> None:
        self.faults: dict[str, FileFault] = {}
        self._prefix = prefix
        self._within = within

    def run(self, parts: Sequence[str]) -> set[str]:
        """Return the paths that match a pattern, of which each part is the pattern of one name."""
        folders = [self._prefix]
        for part in parts[:-1]:
            folders = [below for folder in folders for below in self._enter(folder, part)]
        names = set()
        for folder in folders:
            for below in self._below(folder) if parts[-1] == "**" else [folder]:
                names.update(self._named(below, parts[-1]))
        return names.union(self.faults)

    def _enter(self, folder: str, part: str) -> Iterator[str]:
        """Yield the folders in a folder that match one part of the pattern."""
        if part == "**":
            yield from self._below(folder)
            return
        for path in self._named(folder, part):
            if not _is_folder(path):
                continue
            if self._within and not Path(os.path.realpath(path)).is_relative_to(self._within):
                self.faults[path] = _outside(path, self._prefix)
            else:
                yield f"{path}/"

    def _below(self, folder: str) -> Iterator[str]:
        """Yield the folder and all folders below it, without hidden and linked ones: links can lead in circles."""
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            yield folder
            real = (entry.name for entry in self._list(folder) if entry.is_dir(follow_symlinks=False))
            waiting.extend(f"{folder}{name}/" for name in real if not name.startswith("."))

    def _named(self, folder: str, part: str) -> list[str]:
        """Return the paths in a folder that match one part; hidden ones only if the part begins with a dot."""
        if not glob.has_magic(part):
            return [f"{folder}{part}"] if part and os.path.lexists(f"{folder}{part}") else []
        names = fnmatch.filter((entry.name for entry in self._list(folder)), part)
        return [f"{folder}{name}" for name in names if part.startswith(".") or not name.startswith(".")]

    def _list(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []  # it went just now, or the folder before the pattern is not there
        except OSError as error:
            reason = f"The folder {folder!r} cannot be listed: {error.strerror}."
            if folder == self._prefix:
                raise UsageError(f"{reason} Check its permissions.") from error
            self.faults[folder.rstrip("/")] = FileFault("unreadable", f"{reason} Files in it may be missing here.")
            return []


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112 - Path.is_dir raises where a path is too long or may not be looked up


def _named_as_file(name: str) -> bool:
    ending = EXTENSIONS.search(name)
    return bool(ending and ending[0])


def _outside(name: str, prefix: str) -> FileFault:
    return FileFault(
        "outside_folder",
        f"{name!r} leads out of {prefix or './'!r}, the folder of its pattern, and was not read. Name the file itself, "
        "or set follow_links if you trust everybody who can write to that folder.",
    )


def _problem(name: str) -> FileFault | None:
    """Return why a path is no file that can be read, or None."""
    try:
        mode = Path(name).stat().st_mode
    except OSError as error:
        advice = "Check the path, and where it leads if it is a link."
        return FileFault("unreadable", f"{name!r} cannot be read: {error.strerror}. {advice}")
    if stat.S_ISDIR(mode):
        pattern = os.path.join(name, "*.csv")  # noqa: PTH118 - text for a person
        return FileFault("not_a_file", f"{name!r} is a folder. Name the files in it with a pattern: {pattern!r}.")
    if not stat.S_ISREG(mode):
        return FileFault("not_a_file", f"{name!r} is not a regular file. Save what it gives to a file first.")
    if not os.access(name, os.R_OK):
        return FileFault("unreadable", f"The file {name!r} may not be read by this user. Change its permissions.")
    return None
