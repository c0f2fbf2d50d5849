"""Which texts are URLs that can be fetched, and which of them are the same."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_fanout.tasks.images.url import MAX_URL_CHARACTERS, InvalidUrl, normalise, parse


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://example.org/a.jpg", "http://example.org/a.jpg"),
        ("  http://example.org/a.jpg\r\n", "http://example.org/a.jpg"),
        ("HTTP://EXAMPLE.ORG/A.jpg", "http://example.org/A.jpg"),
        ("http://example.org", "http://example.org/"),
        ("http://example.org:80/a", "http://example.org/a"),
        ("https://example.org:443/a", "https://example.org/a"),
        ("https://example.org:80/a", "https://example.org:80/a"),
        ("http://example.org/a#top", "http://example.org/a"),
        ("http://example.org/a?b=c#top", "http://example.org/a?b=c"),
        ("http://example.org/a b,c.jpg", "http://example.org/a%20b,c.jpg"),
        ("http://example.org/Contr\u00f4le.jpg", "http://example.org/Contr%C3%B4le.jpg"),
        ("http://example.org/Contr%C3%B4le.jpg", "http://example.org/Contr%C3%B4le.jpg"),
        ("http://example.org/100%.jpg", "http://example.org/100%25.jpg"),
        ("http://b\u00fccher.example/a", "http://xn--bcher-kva.example/a"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://127.0.0.1/a", "http://127.0.0.1/a"),
        ("http://127.0.0.1./a", "http://127.0.0.1/a"),
        ("http://example.org./a", "http://example.org/a"),
        ("http://0x7f.1/a", "http://127.0.0.1/a"),
        ("http://0X7F.1./a", "http://127.0.0.1/a"),
        ("http://0177.0.0.1/a", "http://127.0.0.1/a"),
        ("http://2130706433/a", "http://127.0.0.1/a"),
        ("http://0/a", "http://0.0.0.0/a"),
        ("http://0x/a", "http://0.0.0.0/a"),
        ("http://1.2.65535/a", "http://1.2.255.255/a"),
        ("http://1.16777215/a", "http://1.255.255.255/a"),
        ("http://4294967295/a", "http://255.255.255.255/a"),
        ("http://\uff11\uff12\uff17.0.0.1\u3002/a", "http://127.0.0.1/a"),
        ("http://0xg.example/a", "http://0xg.example/a"),
        ("http://example.0xg/a", "http://example.0xg/a"),
        ("http://1.example/a", "http://1.example/a"),
        ("http://under_score.example/a", "http://under_score.example/a"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    """Case of scheme and host, default port, fragment, blanks and encoding make no difference."""
    assert normalise(text) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ("example.org/a.jpg", "starts with http"),
        ("//example.org/a.jpg", "starts with http"),
        ("data:image/png;base64,AAAA", "starts with http"),
        ("ftp://example.org/a", "starts with http"),
        ("file:///etc/passwd", "starts with http"),
        ("http://", "no host"),
        ("http:///a", "no host"),
        ("http://exa mple.org/a", "not a valid name"),
        ("http://-a.example/", "not a valid name"),
        ("http://a..b/", "not a valid name"),
        ("http://" + "a" * 64 + ".example/", "not a valid name"),
        ("http://example.org../", "not a valid name"),
        ("http://1.2.3.4.5/", "not an IPv4 address"),
        ("http://1.2.3.256/", "too large for an IPv4 address"),
        ("http://1.2.65536/", "too large for an IPv4 address"),
        ("http://1.16777216/", "too large for an IPv4 address"),
        ("http://4294967296/", "too large for an IPv4 address"),
        ("http://256.1/", "not an IPv4 address"),
        ("http://example.1/", "not an IPv4 address"),
        ("http://example.0x1./", "not an IPv4 address"),
        ("http://09/", "not an IPv4 address"),
        ("http://1.08/", "not an IPv4 address"),
        ("http://xn--\u00fc.example/", "not a valid international name"),
        ("http://example.org:0/a", "Port 0"),
        ("http://example.org:65536/a", "cannot be read"),
        ("http://example.org:x/a", "cannot be read"),
        ("http://[::1/a", "cannot be read"),
        ("http://[fe80::1%25eth0]/a", "interface"),
        ("http://user@example.org/a", "user name"),
        ("http://user:secret@example.org/a", "user name"),
        ("http://example.org/a\0b", "control character"),
        ("http://example.org/a\nb", "control character"),
        ("http://example.org/\ufffd", "not UTF-8"),
        ("http://example.org/" + "a" * 100_000, "characters"),
    ],
)
def test_what_is_not_a_url(text: str, reason: str) -> None:
    """Everything else is refused with a reason."""
    with pytest.raises(InvalidUrl, match=reason):
        normalise(text)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_length_limit(extra: int) -> None:
    """A URL of the longest length is taken, one character more is not."""
    text = "http://example.org/".ljust(MAX_URL_CHARACTERS + extra, "a")
    if extra <= 0:
        assert normalise(text) == text
    else:
        with pytest.raises(InvalidUrl):
            normalise(text)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    """Nothing that a list can hold makes more of itself than a normal form or an InvalidUrl."""
    for candidate in text, f"http://{text}", f"https://example.org/{text}":
        try:
            normal = normalise(candidate)
        except InvalidUrl:
            continue
        assert normal.isascii()
        assert normalise(normal) == normal


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.lists(st.sampled_from(["{}", "0{:o}", "0x{:x}", "0X{:X}"])))
def test_every_spelling_of_an_address_is_one_url(number: int, count: int, forms: list[str]) -> None:
    """An IPv4 address in one to four numbers, each in any base, has the normal form of four decimal numbers."""
    parts = [number >> 8 * (3 - position) & 255 for position in range(count - 1)]
    parts.append(number & 256 ** (5 - count) - 1)
    host = ".".join((forms[i] if i < len(forms) else "{}").format(part) for i, part in enumerate(parts))
    assert normalise(f"http://{host}/") == normalise(f"http://{host}./") == f"http://{IPv4Address(number)}/"


@given(st.from_regex(r"https?://[a-z0-9-]{1,8}(\.[a-z0-9-]{1,8})?/[A-Za-z0-9._~/=&?+-]{0,12}", fullmatch=True))
def test_the_short_way_agrees_with_the_long_one(text: str) -> None:
    """What is recognised as being in normal form already is what parsing would give."""
    try:
        parsed = parse(text).url
    except InvalidUrl:
        with pytest.raises(InvalidUrl):
            normalise(text)
    else:
        assert normalise(text) == parsed
