"""Checking images: levels of verification, limits, memory."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_fanout.tasks.images.checks import inspect
from prefect_fanout.tasks.images.deadline import Stopped
from prefect_fanout.tasks.images.formats.structure import ContentError
from prefect_fanout.tasks.images.options import DEFAULT_FORMATS, ImageOptions
from servers.pictures import animation, picture, refusal_of

HEADER, FULL = ImageOptions(verify="header"), ImageOptions(verify="full")
EVERYTHING = ImageOptions(formats=frozenset({*DEFAULT_FORMATS, "TIFF"}))


@pytest.mark.parametrize("format", sorted(EVERYTHING.formats))
@pytest.mark.parametrize("verify", ["header", "full"])
def test_every_format_is_recognised(format: str, verify: str) -> None:
    """Format and size are read from the bytes, at every level."""
    options = EVERYTHING.model_copy(update={"verify": verify})
    facts = inspect(io.BytesIO(picture(format, (31, 17))), options)
    assert (facts.format, facts.width, facts.height) == (format, 31, 17)


@pytest.mark.parametrize("options", [HEADER, FULL], ids=["header", "full"])
@pytest.mark.parametrize(
    ("format", "fill"),
    [
        ("JPEG", b""),
        ("JPEG", b"\0"),
        ("PNG", b""),
        ("PNG", b"\0"),
        *((name, b"") for name in ("WEBP", "GIF", "AVIF", "BMP", "TIFF")),
    ],
)
def test_a_cut_image_is_found_at_every_level(options: ImageOptions, format: str, fill: bytes) -> None:
    """A missing end is found at every level, also when zeros stand in for it."""
    whole = picture(format)
    cut = whole[: len(whole) // 2].ljust(len(whole) if fill else 0, b"\0")
    with pytest.raises(ContentError) as caught:
        inspect(io.BytesIO(cut), options.model_copy(update={"formats": EVERYTHING.formats}))
    assert caught.value.kind == "decode_error"


@pytest.mark.parametrize("options", [HEADER, FULL], ids=["header", "full"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_bytes_after_the_end_are_no_damage(options: ImageOptions, format: str) -> None:
    """Cameras and sites append things; the image before them is whole."""
    assert inspect(io.BytesIO(picture(format) + b"appended" * 20_000), options).format == format


def test_progressive_grey_and_cmyk_jpegs_are_fine() -> None:
    """The reduced decoding copes with every kind of JPEG."""
    from PIL import Image

    for mode in "L", "RGB", "CMYK":
        for progressive in False, True:
            out = io.BytesIO()
            Image.new(mode, (100, 40)).save(out, "JPEG", progressive=progressive)
            assert inspect(io.BytesIO(out.getvalue()), FULL).width == 100


@pytest.mark.parametrize("side", [1, 2, 7, 8, 9])
def test_tiny_jpegs_are_decoded(side: int) -> None:
    """An eighth of a small image is still an image."""
    assert inspect(io.BytesIO(picture("JPEG", (side, side))), FULL).height == side


@pytest.mark.parametrize(("extra", "kind"), [(-1, "too_many_pixels"), (0, None), (1, None)])
def test_the_pixel_limit(extra: int, kind: str | None) -> None:
    """An image of max_pixels is taken, one pixel more is not."""
    options = ImageOptions(max_pixels=30 * 20 + extra)
    assert refusal_of(picture("PNG", (30, 20)), options) == kind


@pytest.mark.parametrize(("limit", "kind"), [(2, "too_many_frames"), (3, None), (4, None)])
@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_frame_limit(format: str, limit: int, kind: str | None) -> None:
    """Animations of max_frames are taken, one frame more is not."""
    from PIL import Image

    out = io.BytesIO()
    images = [Image.new("RGB", (16, 16), (80 * number, 0, 0)) for number in range(3)]
    images[0].save(out, format, save_all=True, append_images=images[1:], duration=50)
    assert refusal_of(out.getvalue(), ImageOptions(max_frames=limit)) == kind


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_anywhere_is_a_content_error_or_nothing(data: st.DataObject) -> None:
    """Whatever bytes are wrong, checking ends with facts or with a ContentError, never with another exception."""
    whole = bytearray(picture(data.draw(st.sampled_from(sorted(EVERYTHING.formats))), (24, 24)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert refusal_of(bytes(whole), EVERYTHING) != ""


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_stopped_run_ends_the_decoding(calls: int) -> None:
    """An animation is not decoded to its end when the run is stopped, and the image is not to blame."""
    left = iter(range(calls))

    def stopped() -> None:
        if next(left) == calls - 1:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        inspect(io.BytesIO(animation("GIF", 3)), FULL, stopped=stopped)
