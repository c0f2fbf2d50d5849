"""Checking images: levels of verification, limits, memory."""

from __future__ import annotations

import io
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_fanout.tasks.images.checks import ContentError, DecodeMemory, inspect
from prefect_fanout.tasks.images.gif import frames_at_least
from prefect_fanout.tasks.images.options import DEFAULT_FORMATS, ImageOptions
from servers.pictures import gif_of_frames, picture

HEADER, FULL = ImageOptions(verify="header"), ImageOptions(verify="full")
EVERYTHING = ImageOptions(formats=frozenset({*DEFAULT_FORMATS, "TIFF"}))


def kind_of(data: bytes, options: ImageOptions) -> str | None:
    """Why some bytes are not wanted, or None."""
    try:
        inspect(io.BytesIO(data), options)
    except ContentError as error:
        return error.kind
    return None


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
    assert kind_of(picture("PNG", (30, 20)), options) == kind


@pytest.mark.parametrize("frames", [0, 1, 2, 50])
def test_counting_gif_frames(frames: int) -> None:
    """Frames are counted up to the number asked for."""
    data = io.BytesIO(gif_of_frames(frames))
    assert frames_at_least(data, frames)
    assert not frames_at_least(data, frames + 1)


def test_counting_frames_of_real_and_broken_gifs() -> None:
    """Extensions and colour tables are stepped over, and a file that breaks off ends the count."""
    from PIL import Image

    out = io.BytesIO()
    images = [Image.new("RGB", (9, 9), (60 * number, 0, 0)) for number in range(4)]
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=50, loop=0, comment=b"hello")
    assert frames_at_least(out, 4)
    assert not frames_at_least(out, 5)
    for cut in range(len(out.getvalue())):
        frames_at_least(io.BytesIO(out.getvalue()[:cut]), 100)


@pytest.mark.parametrize(("limit", "kind"), [(2, "too_many_frames"), (3, None), (4, None)])
@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_frame_limit(format: str, limit: int, kind: str | None) -> None:
    """Animations of max_frames are taken, one frame more is not."""
    from PIL import Image

    out = io.BytesIO()
    images = [Image.new("RGB", (16, 16), (80 * number, 0, 0)) for number in range(3)]
    images[0].save(out, format, save_all=True, append_images=images[1:], duration=50)
    assert kind_of(out.getvalue(), ImageOptions(max_frames=limit)) == kind


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_anywhere_is_a_content_error_or_nothing(data: st.DataObject) -> None:
    """Whatever bytes are wrong, checking ends with facts or with a ContentError, never with another exception."""
    whole = bytearray(picture(data.draw(st.sampled_from(sorted(EVERYTHING.formats))), (24, 24)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert kind_of(bytes(whole), EVERYTHING) != ""


def test_decoding_waits_for_memory() -> None:
    """Two images that do not fit together are decoded one after the other; an oversized one goes alone."""
    memory = DecodeMemory(100)
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait()
        with memory.taken(60):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with memory.taken(1000):
        inside.set()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with memory.taken(0), memory.taken(100):
        pass
