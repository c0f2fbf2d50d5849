"""The web site of `fanout demo`: 20 good images and four addresses that go wrong, on loopback, in a thread."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

# The names under which 20 real files stand on Wikimedia Commons: spaces, signs, accents, upper and lower case.
IMAGE_NAMES = (
    "Python_bivittatus_1701.jpg",
    "Python_Regius.jpg",
    "Baby_carpet_python_caudal_luring.jpg",
    "Rock_python_pratik.JPG",
    "Dulip_Wilpattu_Python1.jpg",
    "Image_created_with_a_mobile_phone.png",
    "TEIDE.JPG",
    "Pencil_drawing_of_a_girl_in_ecstasy.jpg",
    "Cristiano_Ronaldo_2018.jpg",
    "Ronaldo_-_Manchester_United_vs_Chelsea.jpg",
    "Ronaldo_in_2018.jpg",
    "Cristiano_Ronaldo_20120609.jpg",
    "cristiano_ronaldo_2016.jpg",
    "Contrôle_de_Cristiano_Ronaldo.jpg",
    "ANSI_ISO_C++_WP.jpg",
    "Python_3._The_standard_type_hierarchy.png",
    "Python_Powered.png",
    "Muhammad_Ali_NYWTS.jpg",
    "Muhammad_Ali_and_Jimmy_Carter.jpg",
    "JoeEMartinCassiusClay1960.jpg",
)
MISSING_NAME = "No_such_picture.jpg"
PAGE_NAME = "A_page_that_says_it_is_a_picture.jpg"
TRUNCATED_NAME = "A_picture_cut_in_half.jpg"
FILE_PATH = "/wiki/Special:FilePath/"
IMAGE_SIZE = (640, 420)

# A site on the same machine answers at once, and the demo would be over before it is seen. This is what a site on the
# same continent takes.
ANSWER_DELAY_S = 0.15

PAGE = b"<!doctype html><html><title>Sorry</title><p>Our pictures have moved. Please enable JavaScript.</p></html>"


@dataclass(frozen=True)
class Answer:
    """What the site sends for one path."""

    status: int
    content_type: str
    body: bytes


@contextmanager
def demo_site() -> Iterator[list[str]]:
    """Serve the site on a free port of 127.0.0.1 and give the 24 addresses to download.

    Yields:
        20 good addresses, one that answers 404, one HTML page posing as an image, one truncated JPEG, and the first
        good address once more.
    """
    answers = _answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(ANSWER_DELAY_S)
            answer = answers.get(self.path, Answer(404, "text/html", b"<h1>404 Not Found</h1>"))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the terminal for the demo."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="demo-site")
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        names = (*IMAGE_NAMES, MISSING_NAME, PAGE_NAME, TRUNCATED_NAME, IMAGE_NAMES[0])
        try:
            yield [base + _path(name) for name in names]
        finally:
            server.shutdown()
            thread.join()


def _path(name: str) -> str:
    return FILE_PATH + quote(name)


def _answers() -> dict[str, Answer]:
    answers = {}
    for number, name in enumerate(IMAGE_NAMES):
        kind = "PNG" if name.endswith(".png") else "JPEG"
        answers[_path(name)] = Answer(200, f"image/{kind.lower()}", _picture(name, number, kind))
    answers[_path(PAGE_NAME)] = Answer(200, "image/jpeg", PAGE)
    whole = _picture(TRUNCATED_NAME, len(IMAGE_NAMES), "JPEG")
    answers[_path(TRUNCATED_NAME)] = Answer(200, "image/jpeg", whole[: len(whole) // 2])
    return answers


def _picture(title: str, number: int, kind: str) -> bytes:
    """An image file of the given Pillow format: a sky of its own colour, a sun, hills and the title."""
    from PIL import Image, ImageDraw

    width, height = IMAGE_SIZE
    hue = number * 255 // (len(IMAGE_NAMES) + 1)
    sky = Image.merge(
        "HSV",
        (
            Image.new("L", IMAGE_SIZE, hue),
            Image.linear_gradient("L").resize(IMAGE_SIZE).point([60 + v // 2 for v in range(256)]),
            Image.linear_gradient("L").resize(IMAGE_SIZE).point([255 - v // 3 for v in range(256)]),
        ),
    ).convert("RGB")
    draw = ImageDraw.Draw(sky)
    sun = 90 + number * (width - 180) // (len(IMAGE_NAMES) + 1)
    draw.ellipse((sun - 45, 70, sun + 45, 160), fill=(255, 244, 214))
    for depth in range(3):
        top = height - 170 + depth * 45
        peak = (sun * (depth + 2) + depth * 190) % width
        shade = 90 - depth * 28
        draw.polygon([(0, height), (0, top + 40), (peak, top - 50), (width, top + 60), (width, height)], (shade,) * 3)
    draw.text((24, height - 34), title, fill=(255, 255, 255))
    buffer = io.BytesIO()
    sky.save(buffer, kind)
    return buffer.getvalue()
