"""What the flows' contenders share: Prefect's late imports, and the way in which the command runs a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi.encoders  # noqa: F401 - Prefect imports it with its first flow run; imports are not timed for anybody
import prefect.flow_engine  # noqa: F401 - as above
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

Work = Callable[[], dict[str, Any]]


def without_heartbeats(work: Work) -> Work:
    """The work as `fanout` does it with a server of its own: a flow waits at its end for the thread that sends them."""

    def quiet() -> dict[str, Any]:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return work()

    return quiet
