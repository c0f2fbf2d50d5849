"""Names of image files."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_fanout.tasks.images.name import file_name


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://example.org/a/TEIDE.JPG", "TEIDE"),
        ("http://example.org/Contr%C3%B4le_de_Cristiano.jpg", "Contr\u00f4le_de_Cristiano"),
        ("http://example.org/Contro%CC%82le.jpg", "Contr\u00f4le"),
        ("http://example.org/ANSI_ISO_C++_WP.jpg", "ANSI_ISO_C++_WP"),
        ("http://example.org/Python_3._The_hierarchy.png", "Python_3._The_hierarchy"),
        ("http://example.org/%2e%2e%2fetc%2fpasswd", "passwd"),
        ("http://example.org/..%5c..%5cboot.ini", "boot.ini"),
        ("http://example.org/a%00b.jpg", "a_b"),
        ("http://example.org/-rf", "rf"),
        ("http://example.org/.htaccess", "htaccess"),
        ("http://example.org/CON.jpg", "CON"),
        ("http://example.org/", "image"),
        ("http://example.org/%FF%FE", "image"),
        ("http://example.org/a%20b%3Ac%2A.png?size=5", "a_b_c"),
        ("http://example.org/%E7%86%8A.jpg", "\u718a"),
    ],
)
def test_names_are_readable_and_safe(url: str, base: str) -> None:
    """A name is what the URL calls the picture, made safe, a hash, and the true extension."""
    assert re.fullmatch(re.escape(base) + r"-[0-9a-f]{16}\.webp", file_name(url, ".webp"))


@pytest.mark.parametrize(
    ("words", "base"),
    [
        ("steam-train", "steam-train~"),
        ("train", "train~"),
        ("dev.val 3test_eval", "dev~.val~_3test~_eval~"),
        ("training-validation", "training~-validation~"),
        ("2valid2testing2evaluation2", "2valid~2testing~2evaluation~2"),
        ("train-train", "train~-train~"),
        ("trainer-latest-devil-contest", "trainer-latest-devil-contest"),
        ("Train-TEST", "Train-TEST"),
        ("train,val", "train,val"),
        ("\u0663test\u0664", "\u0663test\u0664"),
        ("~train~", "train~"),
        ("~", "image"),
    ],
)
def test_words_for_splits_are_marked(words: str, base: str) -> None:
    """A word that `datasets` would take for a split gets a mark; other words, in capitals too, stay as they are."""
    assert re.fullmatch(
        re.escape(base) + r"-[0-9a-f]{16}\.jpg", file_name(f"http://example.org/{quote(words)}", ".jpg")
    )


def test_a_word_that_is_left_by_cutting_is_marked() -> None:
    """The mark comes after the name is cut, and names with as many marks as possible stay below the limits."""
    assert file_name(f"http://example.org/{'x' * 94}-training", ".jpg").startswith(f"{'x' * 94}-train~-")
    assert len(file_name(f"http://example.org/{'dev-' * 99}", ".jpg").encode()) <= 150


def test_long_names_are_cut_at_a_character() -> None:
    """Names stay far below the limit of file systems, also when characters take several bytes."""
    for letter in "a", "\u00f4", "\u718a", "\U0001d11e":
        name = file_name(f"http://example.org/{letter * 400}.jpg", ".jpg")
        assert len(name.encode()) <= 130


def test_urls_that_look_alike_get_different_names() -> None:
    """Host, case and Unicode form are told apart even on a file system that ignores them."""
    urls = [
        "http://a.example/x.jpg",
        "http://b.example/x.jpg",
        "http://a.example/X.jpg",
        "http://a.example/x.jpg?1",
        "http://a.example/%C3%B4.jpg",
        "http://a.example/o%CC%82.jpg",
    ]
    assert len({file_name(url, ".jpg").casefold() for url in urls}) == len(urls)


@given(st.text(max_size=80))
def test_any_path_gives_a_safe_name(path: str) -> None:
    """No URL leads out of the folder or makes a name that a file system refuses."""
    name = file_name(f"http://example.org/{path}", ".jpg")
    assert len(name.encode()) <= 130
    assert not re.search(r'[\x00-\x1f/\\:*?"<>|]', name)
    assert name[0] not in ".-"
    assert name == file_name(f"http://example.org/{path}", ".jpg")
