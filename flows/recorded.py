"""A flow of URLs, of which Prefect records the parameters without passwords."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Flow

from prefect_fanout.tasks.images.url import LEFT_OUT, without_credentials, without_query

P = ParamSpec("P")
R = TypeVar("R")


class UrlFlow(Flow[P, R]):
    """A flow with the parameters `urls` and `options`, of whose URLs only the run itself sees the credentials.

    Prefect sends the parameters of a flow run to its server when the run begins, and writes all of them to its log when
    one of them cannot be used. Both get the URLs with their credentials masked and, with `keep_queries=False`, with
    `?***` in place of their queries. Such a URL is refused when it comes back.
    """

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters as the server keeps them."""
        return super().serialize_parameters(_recorded(parameters))

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters in the types that the flow's function asks for."""
        recorded = _recorded(parameters)
        checked = super().validate_parameters(recorded)
        return checked if recorded is parameters else checked | {"urls": parameters["urls"]}


def url_flow(*, name: str, flow_run_name: Callable[[], str]) -> Callable[[Callable[P, R]], UrlFlow[P, R]]:
    """Make a `UrlFlow` of a function, as `prefect.flow` makes a flow.

    Args:
        name: Name of the flow.
        flow_run_name: Called for the name of each run.
    """
    return lambda function: UrlFlow(function, name=name, flow_run_name=flow_run_name)


def _recorded(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with the URLs as they may be recorded; the very same dict where there are none."""
    options = parameters.get("options")
    keep = options.get("keep_queries", True) if isinstance(options, dict) else getattr(options, "keep_queries", True)

    def shown(url: Any) -> Any:
        if not isinstance(url, str):
            return url
        text = without_credentials(url)
        base = without_query(text)
        return text if keep or base == text else base + LEFT_OUT

    urls = parameters.get("urls")
    if isinstance(urls, (str, Path)):
        # A path with an at-sign stays as it is; with a colon, it may be a URL that was given in place of a list.
        return {**parameters, "urls": type(urls)(shown(str(urls)))} if ":" in str(urls) else parameters
    return {**parameters, "urls": [shown(url) for url in urls]} if isinstance(urls, Collection) else parameters
