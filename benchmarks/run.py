"""Runs every benchmark, also after one that missed a target: `python benchmarks/run.py [--markdown FILE]`.

Exit code: the highest of theirs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS = ("idle.py", "runner.py", "images.py", "csv.py")


def main() -> int:
    """Run them one after the other and return the highest exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also put the results into this file")
    options = parser.parse_args()
    more = [] if options.markdown is None else ["--markdown", str(options.markdown)]
    codes = []
    for script in SCRIPTS:
        print(f"\n=== {script} ===", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(script)), *more]
        codes.append(subprocess.run(command, check=False).returncode)
    return max(abs(code) for code in codes)


if __name__ == "__main__":
    sys.exit(main())
