"""How an item becomes a call of the task's function: names, shared arguments, and what Prefect resolves on the way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.client.schemas.objects import RunInput, State, TaskRunResult
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import BaseAnnotation, quote
from prefect.utilities.callables import call_with_parameters, collapse_variadic_parameters, get_parameter_defaults
from prefect.utilities.collections import StopVisiting, visit_collection
from prefect.utilities.engine import resolve_inputs_sync

from prefect_fanout._errors import UsageError

# Values of these types hold nothing that Prefect could resolve, so they are never looked into (which costs
# microseconds an item, most of what chunking saves).
ATOMIC = frozenset({str, bytes, int, float, bool, complex, type(None)})

_KEYWORD_KINDS = frozenset(
    {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
)


@dataclass(slots=True)
class Upstream:
    """The futures and states found in some values, and whether anything in them has to be resolved at all."""

    futures: list[PrefectFuture[Any]] = field(default_factory=list)
    inputs: set[RunInput] = field(default_factory=set)
    found: bool = False

    @classmethod
    def of(cls, values: Iterable[Any]) -> Upstream:
        """Look through `values` as Prefect does: into collections, not into `quote`."""
        upstream = cls()
        for value in values:
            if type(value) not in ATOMIC:
                visit_collection(value, upstream._visit, return_data=False, context={})
        return upstream

    def _visit(self, value: Any, context: dict[str, Any]) -> Any:
        if isinstance(value, BaseAnnotation):
            self.found = True
        if isinstance(context.get("annotation"), quote):
            raise StopVisiting
        if isinstance(value, PrefectFuture):
            self.found = True
            self.futures.append(value)
            if (task_run_id := getattr(value, "task_run_id", None)) is not None:
                self.inputs.add(TaskRunResult(id=task_run_id))
        elif isinstance(value, State):
            self.found = True
            if value.state_details.task_run_id:
                self.inputs.add(TaskRunResult(id=value.state_details.task_run_id))
        return value


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The parameters that an item fills, and what all items share.

    Attributes:
        names: The parameter for each part of an item; an item with one name is the bare value, else a tuple.
        static: Arguments that every item shares, by parameter name.
        annotations: Prefect's annotation type (`quote`, `allow_failure`, ...) to put back on each item, by name.
        resolve: Whether items can hold futures or states that have to be turned into data first.
    """

    names: tuple[str, ...]
    static: Mapping[str, Any]
    annotations: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    resolve: bool = True

    @classmethod
    def positional(cls, fn: Callable[..., Any], count: int, static: Mapping[str, Any]) -> Binding:
        """Bind `count` zipped iterables to the leading parameters of `fn`, as `map` does.

        Raises:
            UsageError: The function cannot be called with that many items and those `static` arguments.
        """
        signature = inspect.signature(fn)
        try:
            bound = signature.bind(*range(count), **static)
        except TypeError as error:
            raise UsageError(
                f"{fn.__name__}{signature} cannot be called with {count} item argument(s) and the static arguments "
                f"{sorted(static)}: {error}. Pass one iterable per item parameter, "
                "and the others through static={...}."
            ) from error
        names = tuple(bound.arguments)[:count]
        if len(names) < count or any(signature.parameters[n].kind is inspect.Parameter.VAR_POSITIONAL for n in names):
            raise UsageError(
                f"{fn.__name__}{signature} takes its items through *args; give each one a parameter of its own."
            )
        return cls(names=names, static=dict(static))

    def parts(self, items: Iterable[Any]) -> Iterable[tuple[str, Any]]:
        """Every (parameter, value) of some items, annotations put back on."""
        for item in items:
            for name, value in zip(self.names, (item,) if len(self.names) == 1 else item, strict=True):
                yield name, self._annotated(name, value)

    def caller(self, fn: Callable[..., Any]) -> Callable[[Any], Any]:
        """A function of one item that calls `fn`.

        Raises:
            UpstreamTaskError: A future among the shared arguments did not complete.
        """
        static = resolve_inputs_sync(dict(self.static))
        if not all(p.kind in _KEYWORD_KINDS for p in inspect.signature(fn).parameters.values()):
            return self._variadic_caller(fn, static)
        if self.resolve:
            return lambda item: fn(**static, **self._resolved(item))
        if len(self.names) == 1:
            (name,) = self.names
            return (lambda item: fn(**{name: item}, **static)) if static else (lambda item: fn(**{name: item}))
        names = self.names
        return lambda item: fn(**dict(zip(names, item, strict=True)), **static)

    def _variadic_caller(self, fn: Callable[..., Any], static: dict[str, Any]) -> Callable[[Any], Any]:
        defaults = get_parameter_defaults(fn)

        def call(item: Any) -> Any:
            parameters = collapse_variadic_parameters(fn, {**defaults, **static, **self._resolved(item)})
            return call_with_parameters(fn, parameters)

        return call

    def _resolved(self, item: Any) -> dict[str, Any]:
        values = dict(self.parts((item,)))
        return {n: v if type(v) in ATOMIC else resolve_inputs_sync({n: v})[n] for n, v in values.items()}

    def _annotated(self, name: str, value: Any) -> Any:
        annotation = self.annotations.get(name)
        return value if annotation is None else annotation(value)
