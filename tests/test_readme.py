"""The README's Python runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from servers.command import PATIENCE_S, run_fanout
from servers.prefect_server import PrefectServer

README = Path(__file__).parent.parent / "README.md"


def _python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_snippets_of_the_readme_run(tmp_path: Path, prefect_server: PrefectServer) -> None:
    """The flow with the runner gives the sums of squares; the ledger snippet reads a run of the command beside it."""
    environment = {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(prefect_server.home)}
    (tmp_path / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    done = run_fanout("csv", "table.csv", "--out", "pictures", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    printed = []
    for number, block in enumerate(_python_blocks()):
        script = tmp_path / f"snippet_{number}.py"
        script.write_text(block, encoding="utf-8")
        run = subprocess.run(
            [sys.executable, script],
            cwd=tmp_path,
            env={**os.environ, **environment, "PREFECT_LOGGING_LEVEL": "ERROR"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        printed.append(run.stdout)
    squares, ledger = printed
    assert squares.split() == [str(sum(n * n for n in range(count))) for count in (1_000, 100_000)]
    assert re.search(r"ok\s+1", ledger)
