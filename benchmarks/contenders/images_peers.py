"""Other ways to download a list of images into a folder.

The specification: `list`, a text file with a URL per line; `out`, an empty folder; `threads`, downloads at once.
File names are the last parts of the URLs.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

Work = Callable[[], None]

BLOCK_BYTES = 64 * 1024
TIMEOUT_S = 30.0


def _urls(spec: dict[str, Any]) -> list[str]:
    return Path(spec["list"]).read_text().splitlines()


def _target(folder: Path, url: str) -> Path:
    return folder / url.rpartition("/")[2]


def requests_get(spec: dict[str, Any]) -> Work:
    """What most scripts do: requests.get in a pool of threads, a new connection for each image."""
    import requests

    folder, urls = Path(spec["out"]), _urls(spec)

    def download(url: str) -> None:
        answer = requests.get(url, timeout=TIMEOUT_S)
        answer.raise_for_status()
        _target(folder, url).write_bytes(answer.content)

    return partial(_in_threads, download, urls, spec["threads"])


def sessions(spec: dict[str, Any]) -> Work:
    """The baseline: a pool of threads, each with a Session of its own, streaming into the file, no environment."""
    import requests

    folder, urls = Path(spec["out"]), _urls(spec)
    local = threading.local()

    def download(url: str) -> None:
        session = getattr(local, "session", None)
        if session is None:
            session = local.session = requests.Session()
            session.trust_env = False
        with session.get(url, stream=True, timeout=TIMEOUT_S) as answer:
            answer.raise_for_status()
            with _target(folder, url).open("wb") as file:
                for block in answer.iter_content(BLOCK_BYTES):
                    file.write(block)

    return partial(_in_threads, download, urls, spec["threads"])


def _in_threads(download: Callable[[str], None], urls: list[str], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(download, urls):
            pass


def pycurl_multi(spec: dict[str, Any]) -> Work:
    """One loop of libcurl's multi interface over as many reused handles as downloads at once."""
    import pycurl

    folder, urls = Path(spec["out"]), _urls(spec)

    def work() -> None:
        multi = pycurl.CurlMulti()
        left = iter(urls)
        free = [pycurl.Curl() for _ in range(spec["threads"])]
        files: dict[Any, Any] = {}
        running = 0
        while True:
            while free and (url := next(left, None)) is not None:
                curl = free.pop()
                files[curl] = _target(folder, url).open("wb")
                curl.setopt(pycurl.URL, url)
                curl.setopt(pycurl.WRITEDATA, files[curl])
                curl.setopt(pycurl.FAILONERROR, True)
                multi.add_handle(curl)
                running += 1
            if not running:
                return
            multi.perform()
            _, done, failed = multi.info_read()
            if failed:
                raise RuntimeError(f"libcurl could not download: {failed[0][2]}")
            for curl in done:
                files.pop(curl).close()
                multi.remove_handle(curl)
                free.append(curl)
                running -= 1
            if not done:
                multi.select(1.0)

    return work


def curl(spec: dict[str, Any]) -> Work:
    """The curl command with --parallel."""
    configuration = Path(spec["out"]).with_suffix(".curl")
    folder = Path(spec["out"])
    configuration.write_text("".join(f'url="{url}"\noutput="{_target(folder, url)}"\n' for url in _urls(spec)))
    return _command(
        ["curl", "--silent", "--parallel", "--parallel-max", str(spec["threads"]), "--config", str(configuration)]
    )


def aria2c(spec: dict[str, Any]) -> Work:
    """The aria2c command, one connection per image."""
    return _command(
        [
            *("aria2c", "--quiet", "--no-conf", f"--input-file={spec['list']}", f"--dir={spec['out']}"),
            *(f"--max-concurrent-downloads={spec['threads']}", "--split=1", "--file-allocation=none"),
        ]
    )


def wget2(spec: dict[str, Any]) -> Work:
    """The wget2 command."""
    return _command(
        [
            *("wget2", "--quiet", "--no-config", "--no-directories", f"--max-threads={spec['threads']}"),
            *(f"--input-file={spec['list']}", f"--directory-prefix={spec['out']}"),
        ]
    )


def _command(command: list[str]) -> Work:
    def work() -> None:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    return work


def img2dataset(spec: dict[str, Any]) -> Work:
    """img2dataset as fast as it goes: a process per core, nothing decoded or encoded, plain files."""
    # It asks a server for a newer release of a library otherwise.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    # By name: it is installed in an environment of its own, where no type checker looks.
    download = importlib.import_module("img2dataset").download

    def work() -> None:
        processes = os.cpu_count() or 1
        download(
            url_list=spec["list"],
            output_folder=spec["out"],
            input_format="txt",
            output_format="files",
            resize_mode="no",
            disable_all_reencoding=True,
            disallowed_header_directives=[],
            processes_count=processes,
            thread_count=spec["threads"],
            number_sample_per_shard=1000,
            enable_wandb=False,
        )

    return work
