"""What the tests of the plugin share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from servers.prefect_server import PrefectServer


@pytest.fixture(scope="module")
def prefect_client(prefect_server: PrefectServer) -> Iterator[None]:
    """What makes task runs outside flows as cheap as those in flows, for tests that make many.

    One API client for all: Prefect makes one for each task run otherwise, and its TLS context takes ten times as long
    as the run. And no warning for each log line that has no flow run to go to.
    """
    quiet = temporary_settings(updates={PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"})
    with quiet, SyncClientContext.get_or_create():
        yield
