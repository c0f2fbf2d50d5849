from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.tables.sources import STEM_CHARACTERS, find_sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files, one in a folder below; it is the working directory too."""
    (tmp_path / "sub").mkdir()
    for name in ("b.csv", "a.csv", "sub/c.csv"):
        (tmp_path / name).write_bytes(b"a\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _names(*sources: str) -> list[str]:
    return [found.source for found in find_sources(list(sources))]


def test_files_and_patterns_are_expanded_in_order(folder: Path) -> None:
    """In the order named; the matches of a pattern by name; folders are no matches."""
    assert _names("sub/c.csv", "*") == ["sub/c.csv", "a.csv", "b.csv"]
    assert _names("**/*.csv") == ["a.csv", "b.csv", "sub/c.csv"]
    assert _names(str(folder / "[ab].csv")) == [str(folder / "a.csv"), str(folder / "b.csv")]
    assert [found.index for found in find_sources("*.csv")] == [0, 1]


def test_a_name_with_magic_characters_is_a_file_if_there_is_one(folder: Path) -> None:
    """Otherwise a file called `a[1].csv` could never be named."""
    (folder / "a[1].csv").write_bytes(b"a\n")
    (folder / "a1.csv").write_bytes(b"a\n")
    assert _names("a[1].csv") == ["a[1].csv"]


def test_the_home_folder_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quoted pattern reaches us with its tilde."""
    monkeypatch.setenv("HOME", str(folder))
    assert _names("~/*.csv") == [str(folder / "a.csv"), str(folder / "b.csv")]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_file_named_again_is_a_duplicate(folder: Path, times: int) -> None:
    """By any of its names; each has a key of its own."""
    (folder / "link.csv").symlink_to("a.csv")
    found = find_sources(["a.csv", *["link.csv"] * times])
    assert [source.duplicate_of for source in found] == [None] + ["a.csv"] * times
    assert len({source.key for source in found}) == times + 1
    assert found[1].key == f"{folder.resolve() / 'a.csv'}#2"


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.gz", "a.tsv", "a.txt"])
def test_outputs_are_called_after_their_files(folder: Path, name: str) -> None:
    """Without the endings, with a digest of the path."""
    (folder / name).write_bytes(b"a\n")
    [source] = find_sources(name)
    stem, _, digest = source.output_name.rpartition("-")
    assert (stem, len(digest)) == ("a", 10)


@pytest.mark.parametrize("name", ["x" * 200 + ".csv", "ä ö/../b.csv", "….csv", ".csv", "a b;c$.csv", "\udcff.csv"])
def test_output_names_are_safe(folder: Path, name: str) -> None:
    """Readable characters only, cut to a length, never empty."""
    (folder / "ä ö").mkdir()
    Path(name).write_bytes(b"a\n")
    [source] = find_sources(name)
    assert 12 <= len(source.output_name) <= STEM_CHARACTERS + 11
    assert not set(source.output_name) & set(" /;$")
    assert source.output_name.encode()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "Name a file"),
        ("  ", "Name a file"),
        ("missing.csv", "There is no file"),
        ("x*.csv", "matches no file"),
        ("sub", "pattern: 'sub/\\*.csv'"),
        ("https://example.org/a.csv", "Download it first"),
        ("a\0.csv", "Name a file"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_what_to_do(folder: Path, source: str, said: str) -> None:
    """Before anything is read, also when other sources are good."""
    with pytest.raises(UsageError, match=said):
        find_sources(["a.csv", source])


def test_nothing_named_is_an_error() -> None:
    """An empty list is a mistake."""
    with pytest.raises(UsageError, match="at least one"):
        find_sources([])


def test_a_file_without_permission_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to change."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs some tests, may read everything
    with pytest.raises(UsageError, match="permissions"):
        find_sources("a.csv")
