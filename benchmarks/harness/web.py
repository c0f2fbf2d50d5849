"""A web server written in C (nginx) on loopback, and a site of JPEG files for it to serve."""

from __future__ import annotations

import getpass
import http.client
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness.process import Missing, background, free_port

# Debian keeps it where only root's search path looks.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
WIDTH, HEIGHT = 512, 384
QUALITY = 75
# So many pictures are encoded; each file is one of them with a comment of its own inside, so that all bytes differ.
PICTURES = 24
SITE_FOLDER = "img"
COMMENT = b"\xff\xfe"
TIMEOUT_S = 5.0

CONFIGURATION = """
daemon off;
{user}
worker_processes auto;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    types {{ image/jpeg jpg; }}
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{ listen 127.0.0.1:{port}; root {site}; }}
}}
"""


def find_nginx(name: str = "nginx") -> str:
    """Where nginx is, by the name or the path of the program.

    Raises:
        Missing: It is not installed.
    """
    program = shutil.which(name, path=SEARCH_PATH)
    if program is None:
        raise Missing(
            f"This benchmark downloads from nginx, and there is no program {name!r}. On Debian and Ubuntu: "
            "`apt-get install nginx-light` (as root); then run the benchmark again."
        )
    return program


def make_site(folder: Path, count: int, kib: int) -> int:
    """Write `count` JPEG files of about `kib` KiB, no two with the same bytes; return their bytes together.

    They are photo-like (soft colours under noise), 512 x 384 pixels, and named img/000000.jpg and so on.
    """
    images = folder / SITE_FOLDER
    images.mkdir(parents=True)
    noise = _noise_for(kib * 1024)
    pictures = [_split(_encode(seed, noise)) for seed in range(PICTURES)]
    total = 0
    for number in range(count):
        text = f"picture {number:09d} of the benchmark".encode()
        comment = COMMENT + (len(text) + 2).to_bytes(2, "big") + text
        head, rest = pictures[number % PICTURES]
        data = head + comment + rest
        (images / f"{number:06d}.jpg").write_bytes(data)
        total += len(data)
    return total


def _split(picture: bytes) -> tuple[bytes, bytes]:
    """A JPEG file before and after the place for a comment: behind its first segment, which has to be first."""
    place = 4 + int.from_bytes(picture[4:6], "big")
    return picture[:place], picture[place:]


def _noise_for(size: int) -> float:
    """The noise at which a picture has about `size` bytes: more noise, more bytes."""
    low, high = 0.0, 80.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if len(_encode(0, middle)) < size else (low, middle)
    return high


def _encode(seed: int, noise: float) -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3), dtype=np.uint8)
    colours = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.asarray(colours, dtype=np.float32) + random.normal(0, noise, (HEIGHT, WIDTH, 1))
    output = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(output, "JPEG", quality=QUALITY)
    return output.getvalue()


@contextmanager
def nginx(program: str, site: Path, prefix: Path) -> Iterator[str]:
    """Serve `site` while the block lasts, with all that nginx writes below `prefix`; gives the address."""
    prefix.mkdir(parents=True)
    port = free_port()
    # Started by root, its workers would be another user, who may not read the site.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    configuration = prefix / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(user=user, prefix=prefix, port=port, site=site))

    def answers() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            connection.request("HEAD", f"/{SITE_FOLDER}/000000.jpg")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()

    # The first -e is for what it says before it has read the configuration; without it that goes to a system folder.
    command = [program, "-e", str(prefix / "error.log"), "-p", str(prefix), "-c", str(configuration)]
    with background(command, prefix / "output.log", answers):
        yield f"http://127.0.0.1:{port}"
