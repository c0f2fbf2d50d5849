"""The settings of Prefect that this project sets, and the servers that its texts tell a reader to start."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import prefect.settings
import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Read by Prefect outside its settings: which profile to load, and a value of its logging configuration.
NO_SETTINGS = {"PREFECT_PROFILE", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"}
# Without the first a server is open to every user and every web page of its machine, without the second its own clients
# stay outside, and without the third every page may read its answers.
CLOSED = (
    re.compile(r"\bPREFECT_SERVER_API_AUTH_STRING\b"),
    re.compile(r"\bPREFECT_API_AUTH_STRING\b"),
    re.compile(r"\bPREFECT_SERVER_(API_)?CORS_ALLOWED_ORIGINS\b"),
)
# As a person types it, and as a list of arguments.
TYPED = re.compile(r"server\s+start\b")
LISTED = re.compile(r"""\bserver["']?,\s*["']?start\b""")
FLUSH_INTERVAL = re.compile(r"TASK_RUN_RECORDER_FLUSH_INTERVAL\W{1,5}([\d.]+)")


def _texts() -> dict[str, str]:
    """Every tracked text file but the lock file, by its path."""
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is no git repository, so nothing says which files belong to it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("requirements/")]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


def _starts(name: str, text: str) -> list[tuple[str, bool]]:
    """Find each place that starts a server; return it with whether the server is closed there.

    What a person would copy must be complete in one block, which ends at an empty line or at a fence. In a program the
    settings may stand elsewhere in the file.
    """
    found = []
    for block in re.split(r"^\s*(?:```.*)?$", text, flags=re.MULTILINE):
        scope = text if name.endswith(".py") and LISTED.search(block) else block
        if TYPED.search(block) or LISTED.search(block):
            found.append((f"{name}: {block.strip()}", all(pattern.search(scope) for pattern in CLOSED)))
    return found


def test_every_server_that_is_started_or_advised_asks_for_a_password() -> None:
    """Wherever the tree starts Prefect's server, or tells a reader to, it sets both passwords and the origin."""
    found = [start for name, text in _texts().items() for start in _starts(name, text)]
    names = {place.partition(":")[0] for place, _ in found}
    assert {
        "benchmarks/harness/prefect_server.py",
        "deployments/README.md",
        "deployments/compose.yaml",
        "deployments/ui.py",
        "prefect_fanout/_demo.py",
        "tests/servers/prefect_server.py",
    } <= names
    assert [place for place, closed in found if not closed] == []


@pytest.mark.parametrize("missing", [None, 0, 1, 2])
@pytest.mark.parametrize("command", ["prefect server {}", "A=b prefect --no-prompt server  {}", "[server, {}]"])
def test_a_bare_start_is_found(command: str, missing: int | None) -> None:
    """A command that lacks one of the three settings is bare, also when another block of the page has it."""
    names = ["PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    lines = [f"export {name}=x" for number, name in enumerate(names) if number != missing]
    page = "\n".join([*(f"`{name}`" for name in names), "", "```sh", *lines, command.format("start"), "```"])
    ((_, closed),) = _starts("page.md", page)
    assert closed == (missing is None)


def test_compose_requires_both_passwords() -> None:
    """No variable of compose.yaml has a default; the server and each of its clients have the same password."""
    text = (ROOT / "deployments" / "compose.yaml").read_text(encoding="utf-8")
    variables = re.findall(r"\$\{(\w+)(.*?)\}", text)
    assert {name for name, _ in variables} == {"FANOUT_AUTH", "POSTGRES_PASSWORD"}
    assert all(rest.startswith(":?") for _, rest in variables)
    services = yaml.safe_load(text)["services"]
    password = services["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    assert password.startswith("${FANOUT_AUTH:?")
    for name in ("server", "deploy", "worker"):
        assert services[name]["environment"]["PREFECT_API_AUTH_STRING"] == password
    (port,) = services["server"]["ports"]
    origin = services["server"]["environment"]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    assert origin == f"http://{port.rpartition(':')[0]}"


def test_every_step_of_the_guide_knows_the_password() -> None:
    """Each block of deployments/README.md that calls Prefect, or serves, reads the file that the first step wrote."""
    text = (ROOT / "deployments" / "README.md").read_text(encoding="utf-8")
    blocks = [
        *re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL),
        *re.findall(r"(?:^    .+\n)+", text, re.MULTILINE),
    ]
    calls = [block for block in blocks if re.search(r"^\s*prefect |serve\.py", block, re.MULTILINE)]
    assert len(calls) > 5
    assert [block for block in calls if not re.search(r"^\s*\. ~/fanout-server\.env$", block, re.MULTILINE)] == []


def test_every_setting_of_prefect_that_is_named_exists() -> None:
    """The installed Prefect knows each PREFECT_ variable in the tree: a renamed one would be ignored silently."""
    named = {name for text in _texts().values() for name in re.findall(r"\bPREFECT_[A-Z][A-Z_]*[A-Z]\b", text)}
    assert len(named) > 10
    assert [name for name in sorted(named - NO_SETTINGS) if not hasattr(prefect.settings, name)] == []


def test_no_server_is_started_with_a_recorder_that_never_sleeps() -> None:
    """Where the recorder's flush interval is set or advised it is 1 second or more: Prefect cuts 0.2 to 0."""
    found = [(name, float(value)) for name, text in _texts().items() for value in FLUSH_INTERVAL.findall(text)]
    assert len(found) > 1
    assert [place for place in found if place[1] < 1] == []
