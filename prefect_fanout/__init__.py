"""prefect-fanout: a million items through Prefect without a million task runs.

The names below are imported when they are first used: Prefect takes one to two seconds, which `fanout --help` need not.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_fanout._errors import FanoutError
    from prefect_fanout._future import ExecutorFuture
    from prefect_fanout._outcome import Outcome, OutcomeStatus
    from prefect_fanout._runner import ExecutorTaskRunner
    from prefect_fanout._statistics import RunnerStatistics, TimelineEntry
    from prefect_fanout._stream import fan_out
    from prefect_fanout._wait import as_completed, wait
    from prefect_fanout._worker import worker_resource

# Prefect's commands put the current folder first on the path. In this project's own folder they find this package
# without flows and tasks, which lie beside it there; so it also looks where it is installed.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

__all__ = [
    "ExecutorFuture",
    "ExecutorTaskRunner",
    "FanoutError",
    "Outcome",
    "OutcomeStatus",
    "RunnerStatistics",
    "TimelineEntry",
    "__version__",
    "as_completed",
    "fan_out",
    "wait",
    "worker_resource",
]

_HOMES = {
    "ExecutorFuture": "_future",
    "ExecutorTaskRunner": "_runner",
    "FanoutError": "_errors",
    "Outcome": "_outcome",
    "OutcomeStatus": "_outcome",
    "RunnerStatistics": "_statistics",
    "TimelineEntry": "_statistics",
    "as_completed": "_wait",
    "fan_out": "_stream",
    "wait": "_wait",
    "worker_resource": "_worker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
