"""Images made to take memory or time: refused before Pillow parses or decodes them, at limits that real ones keep."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from prefect_fanout.tasks.images.checks import inspect
from prefect_fanout.tasks.images.formats.structure import ContentError
from prefect_fanout.tasks.images.memory import CheckMemory
from prefect_fanout.tasks.images.options import DEFAULT_FORMATS, ImageOptions
from servers.fault_server import FaultServer, body
from servers.memory import growth_mb
from servers.pictures import (
    animation,
    gif_of_frames,
    gif_with,
    jpeg_with,
    multi_picture,
    picture,
    png_chunk,
    png_with,
    refusal_of,
    webp_with,
)

MB = 1024 * 1024
HEADER, FULL = (
    ImageOptions(verify=verify, formats=frozenset({*DEFAULT_FORMATS, "TIFF"})) for verify in ("header", "full")
)
OWN_TABLES = picture()[: picture().index(b"\xff\xda")].count(b"\xff\xdb")
FRAME_HEADER = struct.pack(">BHHB", 8, 48, 64, 3) + b"\1\x11\0\2\x11\0\3\x11\0"


def jpeg_of(parts: int) -> bytes:
    """A JPEG with so many segments before its picture, the one that begins it included."""
    data, at, own = picture(), 2, 1
    while data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        own += 1
    return jpeg_with(*[(0xEF, b"")] * (parts - own))


def box(kind: bytes, content: bytes) -> bytes:
    """One box of an AVIF."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def avif_of(parts: int) -> bytes:
    """An AVIF with so many boxes."""
    data = picture("AVIF")
    own = sum(data.count(kind) for kind in (b"ftyp", b"meta", b"hdlr", b"pitm", b"iloc", b"iinf", b"infe", b"iprp"))
    own += sum(data[:400].count(kind) for kind in (b"ipco", b"ispe", b"pixi", b"av1C", b"colr", b"ipma", b"mdat"))
    return data + box(b"free", b"") * (parts - own)


def bmp_of_runs(pixels: int) -> bytes:
    """A BMP of one line in run lengths."""
    runs = b"\xff\1" * (pixels // 255) + bytes((pixels % 255, 1)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, pixels, 1, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + bytes(range(256)) * 4 + runs


def tiff_of(*entries: tuple[int, int, int, bytes | int], data: bytes = bytes(64)) -> bytes:
    """A TIFF of 8 x 8 grey pixels with further entries: tag, type, count, value. Bytes are put before the directory."""
    content = bytearray(b"II*\0\0\0\0\0" + data)
    found = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    found += [(273, 4, 1, 8), (278, 4, 1, 8), (279, 4, 1, len(data))]
    placed = {entry[0]: entry for entry in found}
    for tag, kind, count, value in entries:
        at = len(content) if isinstance(value, bytes) else value
        content += value if isinstance(value, bytes) else b""
        placed[tag] = (tag, kind, count, at)
    directory = b"".join(struct.pack("<HHII", *placed[tag]) for tag in sorted(placed))
    struct.pack_into("<I", content, 4, len(content))
    return bytes(content) + struct.pack("<H", len(placed)) + directory + bytes(4)


def tiff_of_pages(count: int) -> bytes:
    """A TIFF whose directories follow each other."""
    page = tiff_of()
    begin = struct.unpack_from("<I", page, 4)[0]
    directory = page[begin:-4]
    size = len(directory) + 4
    links = (struct.pack("<I", begin + size * (number + 1) if number + 1 < count else 0) for number in range(count))
    return page[:begin] + b"".join(directory + link for link in links)


def behind_comment(data: bytes) -> bytes:
    """A JPEG with something behind its first segment, a comment."""
    whole = jpeg_with((0xFE, b"comment"))
    end = 2 + 4 + len(b"comment")
    return whole[:end] + data + whole[end:]


@pytest.mark.parametrize(
    ("build", "limit", "step"),
    [
        (jpeg_of, 10_000, 1),
        (lambda count: jpeg_with(*[(0xE1, b"Exif\0\0")] * count), 32, 1),
        (lambda count: jpeg_with(*[(0xDB, bytes(65))] * (count - OWN_TABLES)), 32, 1),
        (lambda count: behind_comment(bytes(count)), MB, 1),
        (lambda count: behind_comment(b"\xff" * count), MB, 1),
        (lambda count: png_with(*[(b"abCd", b"")] * count), 10_000, 1),
        (lambda count: png_with(*[(b"tEXt", b"a\0")] * count), 10_000, 1),
        (lambda count: png_with(*[(b"iCCP", b"p\0\0" + zlib.compress(b"x"))] * count), 1_000, 1),
        (lambda count: gif_with(b"!\x01\1x\0" * count), 10_000, 1),
        (lambda count: gif_with(bytes(count)), MB, 1),
        (gif_of_frames, 10_000, 1),
        (lambda count: webp_with(*[(b"abcd", b"")] * (count - 2)), 10_000, 1),
        (avif_of, 10_000, 1),
        (lambda count: tiff_of((65_000, 4, count // 4, bytes(count))), 4 * MB - 28, 4),
        (tiff_of_pages, 10_000, 1),
        (bmp_of_runs, 16 * MB, 1),
    ],
    ids=[
        *("segments of a JPEG", "Exif segments", "quantization tables", "junk in a JPEG", "fill bytes of a JPEG"),
        *("private chunks of a PNG", "texts of a PNG", "profiles of a PNG"),
        *("extensions of a GIF", "junk in a GIF", "frames of a GIF", "chunks of a WebP", "boxes of an AVIF"),
        *("numbers in a TIFF", "pages of a TIFF", "pixels in run lengths of a BMP"),
    ],
)
def test_the_limits_of_structure(build: Callable[[int], bytes], limit: int, step: int) -> None:
    """A file at the limit is kept; beyond it, it is refused."""
    assert refusal_of(build(limit), HEADER) is None
    assert refusal_of(build(limit + step), HEADER) in ("decode_error", "too_many_frames", "too_many_pixels")


def avif_that_lies() -> bytes:
    """An AVIF whose boxes say 100 x 75 pixels and whose picture has 2 million."""
    data = picture("AVIF", (1_600, 1_200))
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", 100, 75) + data[at + 8 :]


def avif_with_many_items() -> bytes:
    """An AVIF with 60,000 items, which libavif looks up one by one in a list."""
    data = picture("AVIF")
    at = data.index(b"iinf") - 4
    items = b"".join(box(b"infe", b"\2\0\0\0" + struct.pack(">HH4sB", 10 + n, 0, b"abcd", 0)) for n in range(60_000))
    return data[:at] + box(b"iinf", b"\1\0\0\0" + struct.pack(">I", 60_000) + items) + data[at:]


def jpeg_of_scans(count: int) -> bytes:
    """A JPEG of 1,024 x 1,024 pixels whose one scan is there many times over."""
    data = picture(size=(1_024, 1_024), progressive=True)
    end = data.rindex(b"\xff\xda")
    return data[:end] + (data[end : end + 8] + b"\0\x3f\0" + b"\xff\xfe\0\4\xff\xd9") * count + data[end:]


def apng_of_frames(count: int) -> bytes:
    """An animated PNG of 3,000 x 3,000 pixels whose frames are one pixel each."""
    image = Image.new("L", (3_000, 3_000))
    out = io.BytesIO()
    image.save(out, "PNG")
    control = struct.pack(">IIIIIHHBB", 0, 3_000, 3_000, 0, 0, 1, 10, 0, 0)
    data = png_with((b"acTL", struct.pack(">II", count + 1, 0)), (b"fcTL", control), picture_bytes=out.getvalue())
    frames = b""
    for number in range(count):
        control = struct.pack(">IIIIIHHBB", 2 * number + 1, 1, 1, 0, 0, 1, 10, 0, 0)
        frames += png_chunk(b"fcTL", control)
        frames += png_chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + zlib.compress(b"\0\0"))
    end = png_chunk(b"IEND")
    return data.removesuffix(end) + frames + end


def gif_with_frame(left: int, top: int, width: int, height: int) -> bytes:
    """A GIF of one pixel with a second frame somewhere."""
    frame = b"\x2c" + struct.pack("<4HB", left, top, width, height, 0) + b"\2\2\x4c\1\0"
    return gif_of_frames(1).removesuffix(b";") + frame + b";"


@pytest.mark.parametrize(
    ("build", "options", "kind"),
    [
        pytest.param(lambda: jpeg_with((0xC0, FRAME_HEADER)), HEADER, "decode_error", id="two frame headers"),
        pytest.param(
            lambda: multi_picture(picture(), jpeg_of(5_000), jpeg_of(4_985)),
            HEADER,
            None,
            id="segments of all pictures",
        ),
        pytest.param(
            lambda: multi_picture(picture(), jpeg_of(5_000), jpeg_of(5_000)), HEADER, "decode_error", id="one too many"
        ),
        pytest.param(
            lambda: multi_picture(picture(), picture(size=(4_000, 3_000))),
            HEADER.model_copy(update={"max_pixels": 11_999_999}),
            "too_many_pixels",
            id="large second picture",
        ),
        pytest.param(lambda: jpeg_of_scans(4_000), FULL, "too_many_pixels", id="scans"),
        pytest.param(lambda: jpeg_of_scans(4_000), HEADER, None, id="scans, not decoded"),
        pytest.param(lambda: png_with((b"IHDR", picture("PNG")[16:29])), HEADER, "decode_error", id="two headers"),
        pytest.param(lambda: png_with(*[(b"IDAT", b"")] * 130_000), HEADER, "decode_error", id="empty data"),
        pytest.param(lambda: apng_of_frames(440), HEADER, None, id="frames of an APNG, not decoded"),
        pytest.param(lambda: apng_of_frames(450), FULL, "too_many_pixels", id="frames of an APNG"),
        pytest.param(lambda: gif_with(b"!\xfe" + b"\2ab" * 200_000 + b"\0"), HEADER, "decode_error", id="tiny blocks"),
        pytest.param(lambda: gif_with_frame(0, 0, 65_535, 65_535), HEADER, "too_many_pixels", id="large frame"),
        pytest.param(lambda: gif_with_frame(65_535, 65_535, 1, 1), HEADER, "too_many_pixels", id="far frame"),
        pytest.param(lambda: gif_with_frame(0, 0, 8_000, 10_000), HEADER, None, id="frame of max_pixels"),
        pytest.param(
            lambda: gif_of_frames(5_000).replace(b"\1\0\1\0", struct.pack("<HH", 1_000, 1_000), 1),
            FULL,
            "too_many_pixels",
            id="frames of a GIF",
        ),
        pytest.param(lambda: webp_with(canvas=(16_384, 16_384)), HEADER, "too_many_pixels", id="canvas of a WebP"),
        pytest.param(avif_with_many_items, HEADER, "decode_error", id="items of an AVIF"),
        pytest.param(
            lambda: picture("AVIF", exif=b"Exif\0\0II*\0" + bytes(3 * MB)), HEADER, "decode_error", id="Exif of an AVIF"
        ),
        pytest.param(
            lambda: tiff_of((322, 4, 1, 20_000), (323, 4, 1, 20_000)), HEADER, "too_many_pixels", id="tile of a TIFF"
        ),
    ],
)
def test_a_file_that_no_real_image_is_like(build: Callable[[], bytes], options: ImageOptions, kind: str | None) -> None:
    """Files that would take gigabytes, minutes, or both are refused; their harmless neighbours are kept."""
    assert refusal_of(build(), options) == kind


def test_an_avif_counts_as_large_as_its_picture_is() -> None:
    """The memory of an AVIF is that of the picture in it, whatever its boxes say."""
    with pytest.raises(ContentError, match="MiB of memory") as caught:
        inspect(io.BytesIO(avif_that_lies()), HEADER, memory=CheckMemory(10 * MB))
    assert caught.value.kind == "too_many_pixels"
    assert inspect(io.BytesIO(picture("AVIF", (100, 75))), HEADER, memory=CheckMemory(10 * MB)).width == 100


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "AVIF", "JPEG", "BMP", "TIFF"])
def test_an_image_that_alone_takes_too_much_memory(format: str) -> None:
    """An image that exceeds the memory of all checks is refused, and says how much it takes."""
    options = FULL if format in ("PNG", "WEBP", "JPEG") else HEADER
    data = picture(format, (1_000, 1_000))
    with pytest.raises(ContentError, match=r"takes \d+ MiB of memory, over the 3 MiB") as caught:
        inspect(io.BytesIO(data), options, memory=CheckMemory(3 * MB))
    assert caught.value.kind == "too_many_pixels"
    assert inspect(io.BytesIO(data), options, memory=CheckMemory(64 * MB)).width == 1_000


def test_a_limit_of_pillow_is_one_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit, which a program may lower, is too_many_pixels in a later frame, too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    assert refusal_of(gif_with_frame(0, 0, 60, 60), FULL) == "too_many_pixels"


INSPECT = """
import io, sys

def prepare():
    global inspect, options
    from prefect_fanout.tasks.images.checks import inspect
    from prefect_fanout.tasks.images.options import ImageOptions
    options = ImageOptions()
    for path in sys.argv[2:]:
        inspect(open(path, "rb"), options)

def work(path, *harmless):
    with open(path, "rb") as file:
        try:
            inspect(file, options)
        except Exception as error:
            assert error.kind == "decode_error", error
        else:
            raise AssertionError("kept")
"""


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: jpeg_with(*[(0xEF, b"")] * (4 * MB)), id="empty segments"),
        pytest.param(lambda: jpeg_with(*[(0xFE, b"ab")] * (3 * MB)), id="comments"),
        pytest.param(
            lambda: jpeg_with(*[(0xC0, FRAME_HEADER + b"\1\x11\0" * 20_000)] * 250), id="frame headers of a JPEG"
        ),
        pytest.param(lambda: png_with(*[(b"abCd", b"")] * (4 * MB // 3)), id="private chunks"),
        pytest.param(lambda: png_with(*[(b"tEXt", b"%07d\0" % n) for n in range(MB * 3 // 4)]), id="texts of a PNG"),
        pytest.param(lambda: gif_with(b"!\xfe" + b"\2ab" * (16 * MB // 3) + b"\0"), id="comment of a GIF"),
    ],
)
def test_a_file_of_millions_of_parts_takes_no_memory(build: Callable[[], bytes], tmp_path: Path) -> None:
    """16 MB of parts without a picture are refused; Pillow would keep an object for each: 0.3 to 0.7 GB."""
    path, harmless = tmp_path / "hostile", []
    path.write_bytes(build())
    for format in "JPEG", "PNG", "GIF":
        (tmp_path / format).write_bytes(picture(format))
        harmless.append(str(tmp_path / format))
    assert growth_mb(INSPECT, str(path), *harmless) < 200


DOWNLOADS = """
from pathlib import Path

def prepare():
    global Item, ClientFactory, Plan, ThreadPoolExecutor, download_image, make_folders, ImageOptions
    from concurrent.futures import ThreadPoolExecutor
    from prefect_fanout.tasks.images.client import ClientFactory
    from prefect_fanout.tasks.images.download import Plan, download_image, make_folders
    from prefect_fanout.tasks.images.options import ImageOptions
    from prefect_fanout.tasks.images.row import Item

def work(url, verify, run):
    options = ImageOptions(allow_private=True, verify=verify)
    plan = Plan(Path(run), options, ClientFactory(options))
    make_folders(plan)

    def download(number):
        with plan.clients() as client:
            return download_image(Item(number, url, f"{url}?{number}"), plan, client)

    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(download, range(48)))
    assert {row["status"] for row in rows} == {"ok"}, rows[0]
"""


@pytest.mark.parametrize(
    ("format", "size", "verify"), [("AVIF", (4_000, 3_000), "header"), ("WEBP", (3_000, 2_500), "full")]
)
def test_downloads_share_the_memory_for_decoding(
    format: str, size: tuple[int, int], verify: str, tmp_path: Path
) -> None:
    """48 large images in 16 threads take no more than 1.2 GiB together, whatever their codec needs for each."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    out = io.BytesIO()
    image.save(out, format, **({"speed": 10} if format == "AVIF" else {"method": 0}))
    with FaultServer({"/x": body(out.getvalue())}) as server:
        assert growth_mb(DOWNLOADS, f"{server.url}/x", verify, str(tmp_path)) < 1.2 * 1024


def test_animations_of_usual_size_are_decoded_whole() -> None:
    """The limits on the frames of one file leave room for real animations."""
    for format in "GIF", "PNG", "WEBP":
        assert refusal_of(animation(format, 60, (160, 120)), FULL) is None
