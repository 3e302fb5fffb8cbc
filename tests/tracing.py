"""Records spans in memory, as a service does that has a tracer provider of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@dataclass(frozen=True)
class RecordedSpans:
    """The spans that have ended."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, start: str) -> list[ReadableSpan]:
        """Return the spans whose name is or begins with the word ``start``."""
        return [span for span in self.all() if f"{span.name} ".startswith(f"{start} ")]

    def one(self, start: str) -> ReadableSpan:
        [span] = self.named(start)
        return span


@contextmanager
def recorded_spans() -> Iterator[RecordedSpans]:
    """Record all spans of this process while inside."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        # Setting a provider for the whole process is possible only once.
        patch.setattr(trace, "get_tracer_provider", lambda: provider)
        yield RecordedSpans(provider, exporter)


def trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    """Return whether ``child`` is a child of ``parent``, in the same trace."""
    assert parent.context is not None
    return (
        child.parent is not None
        and child.parent.span_id == parent.context.span_id
        and child.parent.trace_id == parent.context.trace_id
    )
