"""Spans of OpenTelemetry, in processes that use it.

This module imports nothing of OpenTelemetry. A service whose own code has imported the API gets
spans from its tracer provider; a command of ingestq gets them if `ingestq.app.tracing` has started
them. Anywhere else a span costs one look-up.

No attribute holds text of a document, and none a secret.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from ingestq.core.errors import encodable
from ingestq.core.urls import without_secrets

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as ApiSpan
    from opentelemetry.trace import SpanContext, Tracer, TracerProvider

API: Final = "opentelemetry.trace"
SCOPE: Final = "ingestq"
"""The instrumentation scope of all spans."""
ERROR_TYPE: Final = "error.type"
MAX_CHARACTERS: Final = 1024
"""Of an attribute or a status."""
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
MAX_STATE_CHARACTERS: Final = 512
"""Of a tracestate, see https://www.w3.org/TR/trace-context/#tracestate-limits."""

Kind = Literal["client", "consumer", "internal", "producer", "server"]
Value = str | int | float | bool
Attributes = Mapping[str, Value]


class TraceContext(Struct, frozen=True, array_like=True, omit_defaults=True):
    """The place of a span in its trace, as it travels with a job: the headers of W3C."""

    traceparent: Annotated[str, Meta(max_length=64)]
    tracestate: Annotated[str, Meta(max_length=MAX_STATE_CHARACTERS)] = ""


class Span:
    """A span that is being recorded, or nothing."""

    def __init__(self, span: "ApiSpan | None" = None) -> None:
        self._span = span

    @property
    def is_recording(self) -> bool:
        """Whether what is set will be seen."""
        return self._span is not None and self._span.is_recording()

    def set(self, attributes: Attributes) -> None:
        """Set attributes."""
        if self._span is not None and self._span.is_recording():
            for name, value in attributes.items():
                self._span.set_attribute(name, _shown(value))

    def rename(self, name: str) -> None:
        """Give the span another name."""
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, error_type: str, reason: str = "") -> None:
        """Mark the span as failed; ``reason`` is a message for users."""
        if self._span is None or not self._span.is_recording():
            return
        codes = sys.modules[API].StatusCode
        self._span.set_attribute(ERROR_TYPE, error_type)
        self._span.set_status(codes.ERROR, _text(reason) or None)


NO_SPAN: Final = Span()


@contextmanager
def span(
    name: str, kind: Kind, attributes: Attributes, parent: TraceContext | None = None
) -> Iterator[Span]:
    """Record what happens inside as a span: a child of ``parent``, by default of the current span.

    An exception marks it as failed, by its type only: a message may hold text of a document.
    """
    api = sys.modules.get(API)
    if api is None:
        yield NO_SPAN
        return
    started = _tracer(api.get_tracer_provider()).start_as_current_span(
        name,
        context=None if parent is None else _context_of(parent),
        kind=api.SpanKind[kind.upper()],
        attributes={key: _shown(value) for key, value in attributes.items()},
        record_exception=False,
        set_status_on_exception=False,
    )
    with started as recorded:
        current = Span(recorded)
        try:
            yield current
        except Exception as error:
            current.fail(type(error).__qualname__)
            raise


@contextmanager
def continued(parent: TraceContext | None) -> Iterator[None]:
    """Make ``parent`` the current span inside, so that spans and lines of the log belong to it."""
    if parent is None or API not in sys.modules:
        yield
        return
    context = _module("opentelemetry.context")
    token = context.attach(_context_of(parent))
    try:
        yield
    finally:
        context.detach(token)


def current() -> TraceContext | None:
    """Return the place of the current span; None if there is none."""
    found = _span_context()
    if found is None:
        return None
    state = found.trace_state.to_header()
    return TraceContext(
        f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}",
        state if len(state) <= MAX_STATE_CHARACTERS else "",
    )


def current_ids() -> Mapping[str, str]:
    """Return the fields of a line of the log that name the current trace and span."""
    found = _span_context()
    if found is None:
        return {}
    return {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"}


def _span_context() -> "SpanContext | None":
    api = sys.modules.get(API)
    if api is None:
        return None
    found: SpanContext = api.get_current_span().get_span_context()
    return found if found.is_valid else None


def _context_of(parent: TraceContext) -> "Context":
    """Return the context of ``parent``; an empty one if that is not well-formed."""
    propagation = _module("opentelemetry.trace.propagation.tracecontext")
    carrier = {TRACEPARENT: parent.traceparent, TRACESTATE: parent.tracestate}
    found: Context = propagation.TraceContextTextMapPropagator().extract(
        carrier, _module("opentelemetry.context").Context()
    )
    return found


def _module(name: str) -> Any:
    """Return a module of the API, which is loaded already."""
    return import_module(name)


@lru_cache(maxsize=4)
def _tracer(provider: "TracerProvider") -> "Tracer":
    return provider.get_tracer(SCOPE)


def _shown(value: Value) -> Value:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return without_secrets(encodable(text))[:MAX_CHARACTERS]
