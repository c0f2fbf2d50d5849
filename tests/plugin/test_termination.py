"""How a process ends: Ctrl-C, SIGTERM and a flow that raises leave nothing Running or Pending, and no thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from servers.eventually import eventually
from servers.prefect_server import PrefectServer
from servers.task_runs import all_final, task_runs_of

# The flow says when its workers are busy, and its tasks end when the runner has told the first queued one to stop:
# so the signal always meets two task runs that run and four that are queued, and the process can always end.
PROGRAM = """
import sys, threading
from prefect import flow, task
from prefect_fanout import ExecutorTaskRunner, fan_out
from prefect.context import FlowRunContext

stopped = threading.Event()
busy = threading.Semaphore(0)

@task
def hold(x):
    busy.release()
    assert stopped.wait(60)
    return x

@flow(task_runner=ExecutorTaskRunner(max_workers=2))
def main(how):
    run_id = FlowRunContext.get().flow_run.id
    futures = [hold.submit(n) for n in range(6)]
    futures[-1].add_done_callback(lambda _: stopped.set())
    busy.acquire(); busy.acquire()
    runner = FlowRunContext.get().task_runner
    if how == "stream":
        def say():
            while runner.statistics().queued < 4 + 3:
                stopped.wait(0.05)
            print(run_id, flush=True)
        threading.Thread(target=say).start()
        for outcome in fan_out(hold, range(100), chunksize=5, in_flight=3):
            pass
    print(run_id, flush=True)
    if how == "raise":
        raise ValueError("the flow gives up")
    for future in futures:
        future.wait()

try:
    main(sys.argv[1])
finally:
    left = [t.name for t in threading.enumerate() if t.name.startswith("fanout")]
    print("threads", left, flush=True)
"""


@pytest.mark.parametrize(
    ("how", "wish", "exit_code", "flow_state"),
    [
        ("wait", signal.SIGINT, 130, "Crashed"),
        ("wait", signal.SIGTERM, 143, "Crashed"),
        ("stream", signal.SIGINT, 130, "Crashed"),
        ("raise", None, 1, "Failed"),
    ],
    ids=["ctrl-c", "sigterm", "ctrl-c-in-a-stream", "raises"],
)
def test_a_process_that_ends_early_leaves_no_task_run_unfinished(
    prefect_server: PrefectServer,
    tmp_path: Path,
    how: str,
    wish: signal.Signals | None,
    exit_code: int,
    flow_state: str,
) -> None:
    """Two task runs complete, the queued ones are Cancelled on the server, and the pool's threads are gone."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), how],
        env={
            **os.environ,
            "PREFECT_API_URL": prefect_server.api_url,
            "PREFECT_HOME": str(tmp_path / "home"),
            "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        flow_run_id = UUID(process.stdout.readline().strip() or "0" * 32)
        if wish is not None:
            process.send_signal(wish)
        rest, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode in (exit_code, -(wish or 0)), errors
    if wish is not signal.SIGTERM:  # Prefect sends it on to its own process, which is then gone with all its threads
        assert "threads []" in rest, errors
    # In a stream the window of three chunks is queued behind the six task runs, and cancelled with them.
    count = 9 if how == "stream" else 6
    runs = eventually(lambda: task_runs_of(flow_run_id), lambda runs: all_final(runs, count))
    states = sorted(str(run.state_name) for run in runs)
    assert states == ["Cancelled"] * (count - 2) + ["Completed"] * 2, errors
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
    assert state is not None
    assert state.name == flow_state, errors
