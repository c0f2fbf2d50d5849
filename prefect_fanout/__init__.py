"""prefect-fanout: a million items through Prefect without a million task runs."""

from pkgutil import extend_path

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
