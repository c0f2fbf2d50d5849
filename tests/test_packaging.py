"""The built wheel: what it puts into site-packages, what importing it costs, and which way its parts depend."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackagePath, distribution
from pathlib import Path

import prefect_fanout

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"prefect_fanout": "prefect_fanout", "prefect_fanout.flows": "flows", "prefect_fanout.tasks": "tasks"}
PARTS = ("prefect_fanout", "prefect_fanout.tasks", "prefect_fanout.flows")
# The command's own modules; the plugin's modules are all others in prefect_fanout/.
MAY_IMPORT_THE_PIPELINES = {"cli"}
HEAVY = {"pandas", "pyarrow", "requests", "PIL", "dask", "distributed", "loky", "pycurl"}


def _installed_files() -> list[PackagePath]:
    files = distribution("prefect-fanout").files
    assert files is not None
    return files


def _source_modules() -> dict[str, Path]:
    """Every module of the tree by its full import name."""
    modules = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            modules[".".join((package, *parts)).removesuffix(".__init__")] = path
    return modules


def _imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _run_python(code: str) -> str:
    """Run `code` in a new interpreter, away from the tree, and give what it printed."""
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], check=True, text=True, stdout=subprocess.PIPE, cwd=Path("/")
    ).stdout


def test_the_tests_import_the_installed_wheel_and_not_the_tree() -> None:
    """`prefect_fanout` comes from site-packages, and the project's root is nowhere on the import path."""
    assert "site-packages" in Path(prefect_fanout.__file__).parts
    assert not Path(prefect_fanout.__file__).resolve().is_relative_to(ROOT / "prefect_fanout")
    assert ROOT not in {Path(entry or ".").resolve() for entry in sys.path}


def test_every_module_of_the_tree_is_in_the_wheel() -> None:
    """No sub-package and no module is forgotten by the list in pyproject.toml, and the wheel holds nothing older."""
    in_wheel = {str(path) for path in _installed_files() if path.suffix == ".py"}
    in_tree = {
        name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        for name, path in _source_modules().items()
    }
    assert in_wheel == in_tree


def test_every_module_can_be_imported() -> None:
    """All modules import without a warning, those of the optional extras included."""
    names = sorted(_source_modules())
    printed = _run_python(f"import importlib\nfor name in {names!r}: print(importlib.import_module(name).__name__)")
    assert printed.split() == names


def test_nothing_generic_lands_in_site_packages() -> None:
    """The wheel adds `prefect_fanout` and its metadata to the top of site-packages and nothing else."""
    own = f"prefect_fanout-{distribution('prefect-fanout').version}.dist-info"
    tops = {path.parts[0] for path in _installed_files() if path.parts[0] != ".."}
    assert tops == {"prefect_fanout", own}


def test_importing_the_plugin_is_cheap() -> None:
    """Using all of its names loads neither pipeline, and no heavy library that Prefect alone does not load."""
    listing = "import sys; print(*sorted(name for name in sys.modules if name.count('.') < 2))"
    with_prefect = set(_run_python(f"import prefect; {listing}").split())
    with_plugin = set(_run_python(f"from prefect_fanout import *; {listing}").split())
    added = with_plugin - with_prefect
    assert not {name.partition(".")[0] for name in added} & HEAVY
    assert not {name for name in added if name.startswith(("prefect_fanout.flows", "prefect_fanout.tasks"))}


def test_the_command_loads_no_pipeline_and_no_prefect_before_it_runs_one() -> None:
    """`import prefect_fanout.cli` loads neither, so that `fanout --help` waits for nothing and Prefect says nothing."""
    loaded = _run_python("import sys, prefect_fanout.cli; print(*sys.modules)").split()
    assert "prefect_fanout.cli" in loaded
    assert "prefect" not in loaded
    assert not [name for name in loaded if name.startswith(("prefect_fanout.flows", "prefect_fanout.tasks"))]


def test_the_parts_depend_one_way() -> None:
    """Flows import tasks and the plugin, tasks only the plugin; in the plugin only the command imports the others."""
    for name, path in _source_modules().items():
        own = max((part for part in PARTS if f"{name}.".startswith(f"{part}.")), key=len)
        module = name.removeprefix("prefect_fanout.")
        forbidden = PARTS[PARTS.index(own) + 1 :]
        wrong = {
            seen for seen in _imported_names(path) if f"{seen}.".startswith(tuple(f"{part}." for part in forbidden))
        }
        if module in MAY_IMPORT_THE_PIPELINES:
            wrong = set()
        assert not wrong, f"{name} imports {sorted(wrong)}"


def test_py_typed_is_shipped() -> None:
    """Type checkers of a user find the marker beside the package."""
    assert (Path(prefect_fanout.__file__).parent / "py.typed").is_file()


def test_the_entry_points_are_declared() -> None:
    """Prefect finds the collection, and `fanout` is a command."""
    entries = {(entry.group, entry.name): entry.value for entry in distribution("prefect-fanout").entry_points}
    assert entries == {
        ("prefect.collections", "prefect_fanout"): "prefect_fanout",
        ("console_scripts", "fanout"): "prefect_fanout.cli:main",
    }


def test_the_door_has_at_most_twelve_names() -> None:
    """Everything in `__all__` exists, and there are at most 12 of them."""
    assert 0 < len(prefect_fanout.__all__) <= 12
    assert all(hasattr(prefect_fanout, name) for name in prefect_fanout.__all__)
    assert set(prefect_fanout.__all__) <= set(dir(prefect_fanout))


def test_there_is_one_version() -> None:
    """The wheel is numbered as the package says of itself, and pyproject.toml has no number of its own."""
    assert distribution("prefect-fanout").version == prefect_fanout.__version__
    assert "version" in PROJECT["project"]["dynamic"]


def test_the_lock_names_no_place() -> None:
    """The lock file holds versions and hashes, and neither the address of an index nor a path."""
    lines = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line[:1].isalnum()]
    assert pins
    assert all("==" in pin for pin in pins)
    assert not [line for line in lines if "://" in line or "index" in line.split("#")[0] or " @ " in line]
    assert len(lines) > 2 * len(pins)  # at least one hash for each
