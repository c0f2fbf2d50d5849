"""Twenty images, one after the other and several at once.

Downloading is mostly waiting, and a thread that waits for the network costs next to nothing: the others go on.

Run it:  python examples/download_images.py
         python examples/download_images.py examples/wikimedia.txt --contact you@example.org

Without a list the script serves twenty small images of its own on this machine, each after a tenth of a second, as a
distant server would. With a list (one URL per line) it downloads that, three times over.

Wikimedia asks of every program: at most two requests at once, and a User-Agent that says how to reach its owner
(https://wikitech.wikimedia.org/wiki/Robot_policy). So for its files the script uses two threads, whatever --workers
says, and does not start without --contact.

This is the lesson; the real thing, with deadlines, size limits, checks and a ledger, is `fanout images`.
"""

import argparse
import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from PIL import Image
from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner, fan_out, worker_resource

IMAGES = 20
LATENCY_S = 0.1  # what a request to another continent takes
TIMEOUT_S = 60.0
MINE = threading.local()


# --- The work: one image ---------------------------------------------------------------------------------------------


def new_session(user_agent: str) -> requests.Session:
    """Open a session; its connection serves one request after the other. One per thread: sessions are not shared."""
    session = requests.Session()
    session.headers["User-Agent"] = user_agent
    return session


def download(url: str, folder: Path, session: requests.Session) -> str:
    """Save one image and return its file name."""
    answer = session.get(url, timeout=TIMEOUT_S)
    answer.raise_for_status()
    file = folder / unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    file.write_bytes(answer.content)
    return file.name


# --- Three ways to do it twenty times --------------------------------------------------------------------------------


def one_after_the_other(urls: list[str], folder: Path, user_agent: str) -> list[str]:
    """A plain loop."""
    with new_session(user_agent) as session:
        return [download(url, folder, session) for url in urls]


def with_a_pool(urls: list[str], folder: Path, user_agent: str, workers: int) -> list[str]:
    """A pool of threads; each opens its session when it starts."""

    def open_session() -> None:
        MINE.session = new_session(user_agent)

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="download", initializer=open_session) as pool:
        return list(pool.map(lambda url: download(url, folder, MINE.session), urls))


@task
def download_task(url: str, folder: Path, user_agent: str) -> str:
    """The same work as a task; the runner keeps one session per thread and closes it at the end."""
    return download(url, folder, worker_resource(partial(new_session, user_agent)))


@flow
def with_a_runner(urls: list[str], folder: Path, user_agent: str, workers: int) -> list[str]:
    """A flow: every image has an outcome, so one that fails does not stop the others."""
    names = []
    with ExecutorTaskRunner(max_workers=workers, thread_name_prefix="download") as runner:
        shared = {"folder": folder, "user_agent": user_agent}
        for outcome in fan_out(download_task, urls, static=shared, ordered=True, runner=runner):
            if outcome.ok:
                names.append(outcome.value)
            else:
                print(f"failed: {outcome.item}: {outcome.error}")
    return names


# --- A site of our own, so that the lesson needs no internet ---------------------------------------------------------


class Site(ThreadingHTTPServer):
    """Twenty small images under /image-00.png ... /image-19.png, each after LATENCY_S; counts requests in progress."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)  # port 0: any free one
        self.lock = threading.Lock()
        self.in_progress = self.most_at_once = 0

    @property
    def urls(self) -> list[str]:
        """The addresses of the images."""
        return [f"http://127.0.0.1:{self.server_port}/image-{number:02}.png" for number in range(IMAGES)]

    @contextmanager
    def one_request(self) -> Iterator[None]:
        """Count a request while it is in progress."""
        with self.lock:
            self.in_progress += 1
            self.most_at_once = max(self.most_at_once, self.in_progress)
        try:
            yield
        finally:
            with self.lock:
                self.in_progress -= 1


class SiteHandler(BaseHTTPRequestHandler):
    """Answer every request with a plain square, its colour made from the name."""

    server: Site
    protocol_version = "HTTP/1.1"  # keeps the connection for the next request

    def do_GET(self) -> None:
        """Wait as the network would, then send the image."""
        with self.server.one_request():
            time.sleep(LATENCY_S)
            image = io.BytesIO()
            Image.new("RGB", (64, 64), color=(hash(self.path) % 256, 128, 128)).save(image, "PNG")
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(image.tell()))
            self.end_headers()
        self.wfile.write(image.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        """Keep the lesson's output free of access logs."""


@contextmanager
def own_site() -> Iterator[Site]:
    """Serve the site while the block runs."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, name="site")
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


# --- The lesson ------------------------------------------------------------------------------------------------------


def show(urls: list[str], user_agent: str, workers: int, site: Site | None) -> None:
    """Download the list in each of the three ways and print what became of it."""
    with_a_runner([], Path(), user_agent, workers)  # Prefect may have to start a server: not part of the lesson's times
    ways: dict[str, Callable[[list[str], Path, str], list[str]]] = {
        "one after the other": one_after_the_other,
        f"pool of {workers} threads": partial(with_a_pool, workers=workers),
        f"flow on {workers} threads": partial(with_a_runner, workers=workers),
    }
    for title, way in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            names = way(urls, Path(folder), user_agent)
            seconds = time.perf_counter() - start
            saved = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"{title}: {len(names)} images, {saved:,} bytes, {seconds:.1f} s")
        print(f"  first {names[0]}, last {names[-1]}")
        if site is not None:
            print(f"  requests at once: {site.most_at_once}")
            site.most_at_once = 0


def main() -> None:
    """Read the command line, then show the lesson."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", nargs="?", type=Path, help="text file with one URL per line (default: an own site)")
    parser.add_argument("--workers", type=int, default=5, help="threads (default: 5)")
    parser.add_argument("--contact", help="an address for the User-Agent, such as an e-mail; Wikimedia asks for it")
    arguments = parser.parse_args()

    urls = arguments.list.read_text(encoding="utf-8").split() if arguments.list else []
    workers: int = arguments.workers
    if any((urlsplit(url).hostname or "").endswith(("wikimedia.org", "wikipedia.org")) for url in urls):
        workers = min(workers, 2)
        if not arguments.contact:
            parser.error("Wikimedia wants to know whom to write to: add --contact with your e-mail address")
    user_agent = f"prefect-fanout-example/1.0 ({arguments.contact or 'a lesson on this machine'})"

    if urls:
        show(urls, user_agent, workers, site=None)
    else:
        with own_site() as site:
            show(site.urls, user_agent, workers, site)


if __name__ == "__main__":
    main()
