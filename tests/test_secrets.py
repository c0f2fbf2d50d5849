"""Passwords and signatures in URLs and proxies: a run must not repeat them anywhere."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pandas as pd
import pytest

from prefect_fanout._errors import UsageError
from prefect_fanout.cli import main
from prefect_fanout.flows.download_images import download_images
from prefect_fanout.tasks.images.body import Body
from prefect_fanout.tasks.images.client import ClientFactory
from prefect_fanout.tasks.images.failure import FetchError
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.url import InvalidUrl, normalise, without_credentials
from prefect_fanout.tasks.ledger import read_ledger
from servers.command import run_fanout
from servers.eventually import eventually
from servers.fault_server import Exchange, FaultServer, body, redirect
from servers.pictures import picture
from servers.prefect_server import PrefectServer

JPEG = picture()
# Each way to write a user name and a password into a URL, right or wrong, and its masked form. SECRET stands for both.
FORMS = [
    ("http://SECRET:SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("HTTPS://SECRET:SECRET@host.invalid/a", "HTTPS://***@host.invalid/a"),
    ("http://SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://:SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET/SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET?SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET#SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET@SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET%40SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET%3ASECRET%40host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET%253ASECRET%2540host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:/SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:?SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET\\SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SEC RET SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET!:SECRET/x SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET\ufe6bhost.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET\uff20host.invalid/a", "http://***@host.invalid/a"),
    ("http://[SECRET:SECRET@host.invalid/a", "http://***@host.invalid/a"),
    ("http://SECRET:SECRET@host.invalid:99999/a", "http://***@host.invalid:99999/a"),
    ("http:/SECRET:SECRET@host.invalid/a", "http:/***@host.invalid/a"),
    ("http:///SECRET:SECRET@host.invalid/a", "http:///***@host.invalid/a"),
    ("http:\\\\SECRET:SECRET@host.invalid/a", "http:\\\\***@host.invalid/a"),
    ("https:SECRET:SECRET@host.invalid/a", "https:***@host.invalid/a"),
    ("//SECRET:SECRET@host.invalid/a", "***@host.invalid/a"),
    ("SECRET:SECRET@host.invalid/a", "***@host.invalid/a"),
    ("SECRET:x@host.invalid/a", "***@host.invalid/a"),
    ("ftp://SECRET:SECRET@host.invalid/a", "***@host.invalid/a"),
    ("http://SECRET:SECRET@", "http://***@"),
    ("http://SECRET:SECRET@/", "http://***@/"),
]
BROKEN_JSON = [
    '{"url": "http://SECRET:SECRET@host.invalid/a"',
    '{"url": "http:\\/\\/SECRET:SECRET\\u0040host.invalid\\/a"',
    '{"url": ["http://SECRET:SECRET@host.invalid/a"]}',
    '{"link": "http://SECRET:SECRET@host.invalid/a"}',
    f'{{"x": "{"y" * 90}", "url": "http://SECRET:{"SECRET" * 30}@host.invalid/a"',
    f'{{"url": "http://SECRET:SECRET@host.invalid/a", "x": "{"y" * 200_000}"}}',
]


@pytest.fixture
def secret() -> str:
    """A password that stands nowhere else."""
    return f"hunter{uuid4().hex}"


@pytest.fixture
def environment(prefect_server: PrefectServer) -> dict[str, str | None]:
    """An environment in which the command uses the tests' server, and no proxy."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"))
    return {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(prefect_server.home), **proxies}


@pytest.fixture
def site() -> Iterator[FaultServer]:
    """A server with a picture."""
    with FaultServer({"/a.jpg": body(JPEG)}) as server:
        yield server


def traces(secret: str, *folders: Path, text: str = "") -> list[str]:
    """Where a secret stands: in the bytes or the name of a file, in the cells of a Parquet file, in a text."""
    found = ["text"] if secret in text else []
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if secret in path.name or secret.encode() in path.read_bytes():
            found.append(str(path))
        if path.suffix == ".parquet" and secret in pd.read_parquet(path).to_csv():
            found.append(f"cells of {path}")
    return found


def write_txt(folder: Path, urls: list[str]) -> Path:
    """One URL per line."""
    (folder / "list.txt").write_text("\n".join(urls), encoding="utf-8")
    return folder / "list.txt"


def write_csv(folder: Path, urls: list[str]) -> Path:
    """A column of URLs."""
    pd.DataFrame({"url": urls}).to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


def write_parquet(folder: Path, urls: list[str]) -> Path:
    """A column of URLs."""
    pd.DataFrame({"url": urls}).to_parquet(folder / "list.parquet")
    return folder / "list.parquet"


def write_jsonl(folder: Path, urls: list[str]) -> Path:
    """One object per line, and lines that are broken."""
    lines = [json.dumps({"url": url}) for url in urls]
    secret = urls[1].split(":")[1].strip("/")
    lines += [line.replace("SECRET", secret) for line in BROKEN_JSON]
    (folder / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "list.jsonl"


@pytest.mark.parametrize(("text", "masked"), FORMS)
def test_credentials_are_masked_in_every_form(text: str, masked: str) -> None:
    """Of a URL with credentials nothing remains before its last at-sign, and the reason repeats nothing of it."""
    assert without_credentials(text) == masked
    with pytest.raises(InvalidUrl) as refused:
        normalise(text)
    assert "secret" not in str(refused.value).lower()
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    ["http://example.org/a@b", "http://example.org/a%40b?c=d@e#f@g", "http://example.org/icon@2x.png", "no url", ""],
)
def test_a_text_without_credentials_stays(text: str) -> None:
    """An at-sign in the path of a valid URL names no user."""
    assert without_credentials(text) == text


@pytest.mark.parametrize("write", [write_txt, write_csv, write_jsonl, write_parquet])
def test_a_run_of_the_command_repeats_no_password(
    prefect_server: PrefectServer,
    environment: dict[str, str | None],
    site: FaultServer,
    tmp_path: Path,
    secret: str,
    write: Callable[[Path, list[str]], Path],
) -> None:
    """No file of the run, no byte of the server's database or log and no output holds a password of the list."""
    site.routes["/to.jpg"] = redirect(f"http://{secret}:{secret}@host.invalid/a")
    site.routes["/odd.jpg"] = redirect(f"http://[{secret}:{secret}@host.invalid/a")
    site.routes["/user.jpg"] = redirect(f"{secret}:x@host.invalid/a")
    (tmp_path / "lists").mkdir()
    mark = f"mark{uuid4().hex}"
    urls = [mark, *(text.replace("SECRET", secret) for text, _ in FORMS)]
    path = write(tmp_path / "lists", [*urls, *(f"{site.url}/{name}.jpg" for name in ("a", "to", "odd", "user"))])
    done = run_fanout(
        "images", path, "--out", tmp_path / "run", "--allow-private", cwd=tmp_path, environment=environment
    )
    assert done.returncode == 3, done.stderr
    ledger = read_ledger(tmp_path / "run")
    after = len(urls)
    assert list(ledger["status"][:after]) == ["failed"] * after
    assert list(ledger["url"][1:after]) == [masked for _, masked in FORMS]
    kinds = list(ledger["error_kind"][after : after + 4].fillna(""))
    assert kinds == ["", "bad_redirect", "bad_redirect", "bad_redirect_scheme"]

    def is_recorded() -> bool:
        return any(mark.encode() in path.read_bytes() for path in prefect_server.home.glob("prefect.db*"))

    assert eventually(is_recorded, bool), "the summary with the first failures is in the database"
    assert traces(secret, tmp_path / "run", prefect_server.home, text=done.stdout + done.stderr) == []


@pytest.mark.parametrize("text", [text for text, _ in FORMS if "\ufe6b" not in text])
def test_a_single_url_with_a_password_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, secret: str, text: str
) -> None:
    """It is wrong usage before anything is recorded or written, and the answer does not repeat it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert main(["images", text.replace("SECRET", secret), "--out", "run"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fanout: ")
    assert secret not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_python_list_is_recorded_without_passwords(
    prefect_server: PrefectServer, site: FaultServer, tmp_path: Path, secret: str
) -> None:
    """The parameters of the flow run hold the masked URLs, and the run itself the right ones."""
    urls = [text.replace("SECRET", secret) for text, _ in FORMS]
    given = [*urls, f"{site.url}/a.jpg?size=1"]
    state = download_images(given, str(tmp_path / "run"), ImageOptions(allow_private=True), return_state=True)
    run = httpx.get(f"{prefect_server.api_url}/flow_runs/{state.state_details.flow_run_id}").json()
    assert run["parameters"]["urls"] == [*(masked for _, masked in FORMS), given[-1]]
    assert read_ledger(tmp_path / "run")["status"].iloc[-1] == "ok"
    assert traces(secret, tmp_path / "run", prefect_server.home) == []


@pytest.mark.parametrize("kind", [list, tuple, set])
def test_any_collection_of_urls_is_recorded_without_passwords(
    prefect_server: PrefectServer, tmp_path: Path, secret: str, kind: Callable[[list[str]], Any]
) -> None:
    """A tuple or a set of URLs is treated as a list."""
    state = download_images(kind([f"http://u:{secret}@host.invalid/a"]), str(tmp_path / "run"), return_state=True)
    run = httpx.get(f"{prefect_server.api_url}/flow_runs/{state.state_details.flow_run_id}").json()
    assert run["parameters"]["urls"] == ["http://***@host.invalid/a"]
    assert list(read_ledger(tmp_path / "run")["url"]) == ["http://***@host.invalid/a"]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_url_in_place_of_a_list_is_recorded_without_its_password(
    prefect_server: PrefectServer, tmp_path: Path, secret: str, kind: Callable[[str], Any]
) -> None:
    """A URL, or what a Path makes of it, is refused, and neither parameters, nor state, nor logs repeat it."""
    url = f"http://u:{secret}@host.invalid/list.txt"
    state = download_images(kind(url), str(tmp_path / "run"), return_state=True)
    assert state.is_failed()
    run = httpx.get(f"{prefect_server.api_url}/flow_runs/{state.state_details.flow_run_id}").json()
    assert run["parameters"]["urls"] in ("http://***@host.invalid/list.txt", "http:/***@host.invalid/list.txt")

    def logged() -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
        return httpx.post(f"{prefect_server.api_url}/logs/filter", json=wanted).text

    assert secret not in eventually(logged, lambda text: "UsageError" in text)
    assert "UsageError" in logged()
    assert traces(secret, prefect_server.home) == []


def test_parameters_that_are_refused_are_not_logged_with_passwords(
    prefect_server: PrefectServer, tmp_path: Path, secret: str
) -> None:
    """Prefect's own words about a wrong option hold the masked URLs."""
    code = f"""
from prefect_fanout.flows.download_images import download_images
download_images(["http://u:{secret}@host.invalid/a"], "run", {{"workers": "many"}})
"""
    environment = {**prefect_server.environment, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "http://***@host.invalid/a" in done.stderr
    assert traces(secret, prefect_server.home, text=done.stdout + done.stderr.replace(code, "")) == []


# --- proxies ---------------------------------------------------------------------------------------------------------

BAD_PROXIES = [
    "http://SECRET:SECRET@host.invalid:99999",
    "http://SECRET:SECRET@host.invalid:port",
    "http://SECRET:SECRET/SECRET@host.invalid:80",
    "http://SECRET:SECRET#SECRET@host.invalid:80",
    "http://SECRET/SECRET@host.invalid:80",
    "http://host.invalid:80/SECRET",
    "http://host.invalid:80?SECRET",
    "SECRET:SECRET/SECRET@host.invalid:80",
    "socks5://SECRET:SECRET@host.invalid:80",
    "SECRET://host.invalid:80",
    "http://SECRET:SECRET@",
]


@pytest.mark.parametrize("proxy", BAD_PROXIES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_cannot_be_used_is_wrong_usage(secret: str, scheme: str, proxy: str) -> None:
    """It is refused once, before the run, by the name of its variable and without its text."""
    with pytest.raises(UsageError) as refused:
        ClientFactory(ImageOptions(), {scheme: proxy.replace("SECRET", secret)})
    assert f"{scheme.upper()}_PROXY" in str(refused.value)
    assert secret not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_command_refuses_a_proxy_before_it_starts_anything(
    environment: dict[str, str | None], tmp_path: Path, secret: str
) -> None:
    """A malformed proxy is exit code 2, without a traceback and without the password."""
    proxy = {"https_proxy": f"http://u:{secret}@host.invalid:99999"}
    url = "http://127.0.0.1:9/a.jpg"
    done = run_fanout("images", url, "--out", "run", cwd=tmp_path, environment={**environment, **proxy})
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "HTTPS_PROXY" in done.stderr
    assert "Traceback" not in done.stderr
    assert secret not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("proxy", ["{host}", "http://{host}", "http://{host}/", "http://u:p%40w@{host}"])
def test_a_proxy_as_people_write_it(site: FaultServer, proxy: str) -> None:
    """A proxy with or without scheme, slash and credentials is used."""
    site.routes["http://192.0.2.1/a.jpg"] = body(JPEG)
    proxies = {"http": proxy.format(host=f"127.0.0.1:{site.port}")}
    with ClientFactory(ImageOptions(allow_private=True), proxies)() as client:
        assert client.fetch("http://192.0.2.1/a.jpg", Body(Path())).status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", ["refused", "unknown", "407", "bad"])
def test_a_proxy_that_fails_is_not_repeated(
    tmp_path: Path, site: FaultServer, secret: str, scheme: str, answer: str
) -> None:
    """A failure of a proxy is reported without its user and password."""
    place = {"refused": "127.0.0.1:1", "unknown": "no-such-proxy.invalid:80"}.get(answer, f"127.0.0.1:{site.port}")
    status = "407 Proxy Authentication Required" if answer == "407" else "abc"
    target = f"{scheme}://192.0.2.1/a.jpg"
    site.routes["192.0.2.1:443" if scheme == "https" else target] = body(b"", status)
    factory = ClientFactory(ImageOptions(allow_private=True, retries=0), {scheme: f"http://{secret}:{secret}@{place}"})
    with factory() as client, pytest.raises(FetchError) as failed:
        client.fetch(target, Body(tmp_path))
    assert secret not in repr(failed.value)


def test_a_password_of_a_proxy_does_not_travel(
    site: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """A pickled factory holds no password; the other process takes its own environment's for the same proxy."""
    seen: list[str | None] = []

    def handle(exchange: Exchange) -> bool:
        seen.append(exchange.headers.get("proxy-authorization"))
        return exchange.answer(JPEG)

    target = "http://192.0.2.1/a.jpg"
    site.routes[target] = handle
    place = f"127.0.0.1:{site.port}"
    sent = pickle.dumps(ClientFactory(ImageOptions(allow_private=True), {"http": f"http://u:{secret}@{place}"}))
    assert secret.encode() not in sent
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for own in (None, f"http://u:{secret}@{place}", f"u:{secret}@{place}", f"http://u:{secret}@192.0.2.9:1"):
        if own is not None:
            monkeypatch.setenv("http_proxy", own)
        with pickle.load(io.BytesIO(sent))() as client:
            client.fetch(target, Body(tmp_path))
    assert [header is not None for header in seen] == [False, True, True, False]


# --- queries ---------------------------------------------------------------------------------------------------------


def test_queries_can_be_left_out(
    prefect_server: PrefectServer, environment: dict[str, str | None], site: FaultServer, tmp_path: Path, secret: str
) -> None:
    """With --no-keep-queries no signature is kept anywhere; items stay apart, and a rerun skips the finished ones."""
    asked: list[str] = []

    def signed(exchange: Exchange) -> bool:
        asked.append(exchange.target)
        return exchange.answer(JPEG)

    site.routes |= {
        "/signed.jpg": signed,
        "/to.jpg": redirect(f"/signed.jpg?by={secret}"),
        "/gone.jpg": body(b"", f"404 Nothing at /gone.jpg?by={secret}"),
    }
    queries = [f"by={secret}&n=1", f"by={secret}&n=2", f"by={secret}&n=1#{secret}", "", secret]
    urls = [f"{site.url}/signed.jpg{'?' if query else ''}{query}" for query in queries]
    urls += [f"{site.url}/to.jpg", f"{site.url}/gone.jpg?by={secret}", f"http://exa mple/?by={secret}"]
    (tmp_path / "lists").mkdir()
    path = write_txt(tmp_path / "lists", urls)

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        arguments = ["images", path, "--out", tmp_path / "run", "--allow-private", "--no-keep-queries", *more]
        done = run_fanout(*arguments, cwd=tmp_path, environment=environment)
        assert traces(secret, tmp_path / "run", prefect_server.home, text=done.stdout + done.stderr) == []
        return done

    assert "8 items, 5 ok, 2 failed, 1 duplicate" in run().stdout
    assert sorted(asked) == sorted(
        [f"/signed.jpg?{query}" for query in (queries[0], queries[1], queries[4], f"by={secret}")] + ["/signed.jpg"]
    )
    ledger = read_ledger(tmp_path / "run")
    assert list(ledger["url"]) == [url.partition("?")[0] for url in urls]
    assert list(ledger["final_url"].dropna().unique()) == [f"{site.url}/signed.jpg", f"{site.url}/gone.jpg"]
    assert ledger["url_key"].is_unique
    assert len(set(ledger["path"].dropna())) == 5
    assert "8 skipped" in run().stdout
    assert "1 ok" not in run("--retry-failed").stdout
    assert len(asked) == 5


def test_parameters_hold_no_queries_either(
    prefect_server: PrefectServer, site: FaultServer, tmp_path: Path, secret: str
) -> None:
    """With keep_queries=False a Python list is recorded without queries, and what was recorded is refused as a list."""
    urls = [f"{site.url}/a.jpg?by={secret}", f"{site.url}/a.jpg"]
    options = ImageOptions(allow_private=True, keep_queries=False)
    state = download_images(urls, str(tmp_path / "run"), options, return_state=True)
    run = httpx.get(f"{prefect_server.api_url}/flow_runs/{state.state_details.flow_run_id}").json()
    assert run["parameters"]["urls"] == [f"{site.url}/a.jpg?***", f"{site.url}/a.jpg"]
    assert list(read_ledger(tmp_path / "run")["status"]) == ["ok", "ok"]
    assert traces(secret, tmp_path / "run", prefect_server.home) == []
    again = download_images(run["parameters"]["urls"], str(tmp_path / "again"), options)
    assert (again["ok"], again["failed"]) == (1, 1)
    assert "keep_queries" in read_ledger(tmp_path / "again")["error"].iloc[0]


def test_queries_are_kept_by_default(site: FaultServer, tmp_path: Path, prefect_server: PrefectServer) -> None:
    """The ledger holds URLs whole, as the documentation says."""
    download_images([f"{site.url}/a.jpg?by=x"], str(tmp_path / "run"), ImageOptions(allow_private=True))
    row = read_ledger(tmp_path / "run").iloc[0]
    assert row["url"] == row["url_key"] == row["final_url"] == f"{site.url}/a.jpg?by=x"
