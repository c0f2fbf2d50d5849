from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_fanout._errors import UsageError
from prefect_fanout.tasks.tables.ingest import ingest_file
from prefect_fanout.tasks.tables.options import CsvOptions
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
    assert _names("**/*.csv") == _names("**") == ["a.csv", "b.csv", "sub/c.csv"]
    assert _names("*/c.csv") == _names("s*/*.csv") == _names("./**/c.csv".removeprefix("./")) == ["sub/c.csv"]
    assert _names(str(folder / "[ab].csv")) == [str(folder / "a.csv"), str(folder / "b.csv")]
    assert [found.index for found in find_sources("*.csv")] == [0, 1]


def test_a_file_whose_name_is_a_pattern_is_found_and_hides_no_other(folder: Path) -> None:
    """`a[1].csv` can be named, and whoever writes a file called `*.csv` or `[ab].csv` takes none out of the run."""
    for name in ("a[1].csv", "a1.csv", "*.csv", "[ab].csv"):
        (folder / name).write_bytes(b"a\n")
    assert _names("a[1].csv") == ["a1.csv", "a[1].csv"]
    assert _names("[ab].csv") == ["[ab].csv", "a.csv", "b.csv"]
    assert _names("*.csv") == ["*.csv", "[ab].csv", "a.csv", "a1.csv", "a[1].csv", "b.csv"]


def test_hidden_files_are_found_only_when_the_pattern_begins_with_a_dot(folder: Path) -> None:
    """As a shell has it; neither are hidden folders entered."""
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "d.csv").write_bytes(b"a\n")
    (folder / ".e.csv").write_bytes(b"a\n")
    assert _names("**/*.csv") == ["a.csv", "b.csv", "sub/c.csv"]
    assert (_names(".*.csv"), _names(".h*/*.csv")) == ([".e.csv"], [".hidden/d.csv"])


def _faults(pattern: str, *, follow_links: bool = False) -> dict[str, str | None]:
    """What a pattern found, and what is wrong with each."""
    found = find_sources(pattern, follow_links=follow_links)
    return {source.source: source.problem and source.problem.kind for source in found}


@pytest.fixture
def outside(folder: Path) -> Path:
    """A folder that patterns for `in/` must not reach, with a secret in it; `in/` holds one good file."""
    (folder / "out" / "below").mkdir(parents=True)
    (folder / "out" / "secret.csv").write_bytes(b"a\nSECRET\n")
    (folder / "out" / "below" / "secret.csv").write_bytes(b"a\nSECRET\n")
    (folder / "in").mkdir()
    (folder / "in" / "good.csv").write_bytes(b"a\n1\n")
    return folder / "out"


@pytest.mark.parametrize("name", ["evil.csv", "*.csv"])
def test_a_match_that_leads_out_of_the_folder_is_not_followed(folder: Path, outside: Path, name: str) -> None:
    """Not even under the name of the pattern itself; with `follow_links` it is read, and so is a path of its own."""
    (folder / "in" / name).symlink_to(outside / "secret.csv")
    assert _faults("in/*.csv") == {f"in/{name}": "outside_folder", "in/good.csv": None}
    assert _faults("in/*.csv", follow_links=True) == {f"in/{name}": None, "in/good.csv": None}
    [evil, _] = sorted(find_sources("in/*.csv"), key=lambda source: source.problem is None)
    assert evil.path == folder.resolve() / "in" / name, "it is known by its own place"
    if name == "evil.csv":
        [named] = find_sources(f"in/{name}")
        assert (named.path, named.problem) == (outside.resolve() / "secret.csv", None)


def test_a_match_that_stays_in_the_folder_is_followed(folder: Path, outside: Path) -> None:
    """A link to a file of the same folder is no danger; the folder itself may be reached through a link."""
    (folder / "in" / "sub").mkdir()
    (folder / "in" / "sub" / "b.csv").write_bytes(b"a\n")
    (folder / "in" / "alias.csv").symlink_to("sub/b.csv")
    (folder / "linked").symlink_to("in")
    assert _faults("in/*.csv") == {"in/alias.csv": None, "in/good.csv": None}
    assert _faults("linked/*.csv") == {"linked/alias.csv": None, "linked/good.csv": None}


def test_a_linked_folder_that_leads_out_is_a_match_and_not_entered(folder: Path, outside: Path) -> None:
    """Its files are not even listed; `follow_links` enters it."""
    (folder / "in" / "evil").symlink_to(outside)
    assert _faults("in/*/*.csv") == _faults("in/*/**/*.csv") == {"in/evil": "outside_folder"}
    assert _faults("in/*/*.csv", follow_links=True) == {"in/evil/secret.csv": None}


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("links", [1, 2])
def test_two_asterisks_enter_no_linked_folder(folder: Path, outside: Path, links: int, follow_links: bool) -> None:
    """A loop is found once and the walk ends, with two loops as well (such a walk never ended), also `follow_links`."""
    for number in range(links):
        (folder / "in" / f"loop{number}").symlink_to(".")
    (folder / "in" / "evil").symlink_to(outside)
    assert _faults("in/**/*.csv", follow_links=follow_links) == {"in/good.csv": None}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.symlink_to("nowhere.csv"), "unreadable"),
        (lambda path: path.symlink_to(path.name), "unreadable"),
        (_fifo, "not_a_file"),
        (lambda path: path.mkdir(), "not_a_file"),
        (lambda path: path.symlink_to("/dev/zero"), "outside_folder"),
    ],
    ids=["dangling", "self", "fifo", "folder", "device"],
)
def test_a_match_that_cannot_be_read_is_a_failed_item(
    folder: Path, outside: Path, make: Callable[[Path], None], kind: str
) -> None:
    """The good file beside it is found all the same; a device is no file with `follow_links` either."""
    make(folder / "in" / "bad.csv")
    assert _faults("in/*.csv") == {"in/bad.csv": kind, "in/good.csv": None}
    followed = "not_a_file" if kind == "outside_folder" else kind
    assert _faults("in/*.csv", follow_links=True) == {"in/bad.csv": followed, "in/good.csv": None}


def test_a_folder_that_is_named_as_a_file_is_no_problem_where_its_files_match(folder: Path) -> None:
    """Some programs write a folder `out.csv` of parts."""
    (folder / "out.csv").mkdir()
    (folder / "out.csv" / "part.csv").write_bytes(b"a\n")
    assert _faults("o*.csv") == {"out.csv": "not_a_file"}
    assert _faults("**/*.csv") == dict.fromkeys(["a.csv", "b.csv", "out.csv/part.csv", "sub/c.csv"])


def test_a_folder_that_cannot_be_listed_is_a_failed_item(folder: Path) -> None:
    """Its files may match, so it is not left out without a word; one too deep for a path is such a folder."""
    name = "x" * 250
    deep = os.open("sub", os.O_RDONLY)
    for _ in range(20):  # 5,000 bytes, and a path has at most 4,096
        os.mkdir(name, dir_fd=deep)
        below = os.open(name, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    faults = _faults("**/*.csv")
    assert [name for name, kind in faults.items() if kind is None] == ["a.csv", "b.csv", "sub/c.csv"]
    assert list(faults.values()).count("unreadable") == 1


@pytest.mark.parametrize("swapped", ["file", "folder", "fifo"])
def test_a_swap_between_finding_and_reading_gains_nothing(folder: Path, outside: Path, swapped: str) -> None:
    """A file, or the folder above it, that became a link after it was found is a failed item, and nothing is read."""
    (folder / "in" / "below").mkdir()
    (folder / "in" / "below" / "secret.csv").write_bytes(b"a\n1\n")
    [source] = find_sources("in/**/secret.csv")
    if swapped == "folder":
        shutil.rmtree(folder / "in" / "below")
        (folder / "in" / "below").symlink_to(outside / "below")
    else:
        source.path.unlink()
        source.path.symlink_to(outside / "secret.csv") if swapped == "file" else os.mkfifo(source.path)
    row = ingest_file(source, folder / "run", CsvOptions())
    assert (row["status"], row["error_kind"]) == ("failed", "unreadable" if swapped == "fifo" else "outside_folder")
    assert "edges" not in row, "no digest of what the link leads to"
    assert not [path for path in (folder / "run").rglob("*") if path.is_file()]


def test_a_file_that_is_replaced_by_another_is_read(folder: Path) -> None:
    """Programs write a new file and rename it over the old one; that is no attack."""
    [source] = find_sources("sub/*.csv")
    (folder / "new").write_bytes(b"a\n1\n2\n")
    (folder / "new").rename(source.path)
    assert ingest_file(source, folder / "run", CsvOptions())["rows_out"] == 2


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
