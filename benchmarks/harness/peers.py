"""The peers' environments, each in a folder below build/: the project's own environment carries none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness.process import Missing

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = {
    "peers": ROOT / "requirements" / "bench-peers.txt",
    # On its own, because of its size.
    "img2dataset": ROOT / "requirements" / "bench-img2dataset.txt",
}


def interpreter(name: str) -> Path:
    """Where the interpreter of a peers' environment is, whether it exists or not."""
    return ROOT / "build" / f"bench-{name}" / "bin" / "python"


def install(name: str) -> Path:
    """Make the environment unless it is there with the packages that its list names now; return its interpreter.

    Raises:
        Missing: pip could not install the packages.
    """
    python, wanted = interpreter(name), ENVIRONMENTS[name]
    stamp = python.parents[1] / "installed.txt"
    if stamp.is_file() and stamp.read_bytes() == wanted.read_bytes():
        return python
    print(f"Installing {wanted.name} into build/{stamp.parent.name} (once) ...", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
    for command in ([sys.executable, "-m", "venv", "--clear", str(stamp.parent)], pip):
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            raise Missing(f"The peers could not be installed from {wanted.name}: the messages above say why.")
    stamp.write_bytes(wanted.read_bytes())
    return python


def has_module(python: Path, module: str) -> bool:
    """Whether an interpreter can import a module."""
    if not python.is_file():
        return False
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return subprocess.run([str(python), "-c", code, module], check=False, capture_output=True).returncode == 0


def module_versions(python: Path, distributions: list[str]) -> str:
    """The versions of some distributions in an environment, as text; those that are missing are left out."""
    code = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        print(name, version(name))\n"
        "    except PackageNotFoundError:\n        pass\n"
    )
    done = subprocess.run([str(python), "-c", code, *distributions], check=True, capture_output=True, text=True)
    return ", ".join(done.stdout.splitlines())
