"""Records the spans of a command, and exports them as the ``OTEL_*`` variables say.

OpenTelemetry is imported only if spans are wanted. Work never waits for a collector: spans that it
does not take are dropped, and one line of the log says so.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

import structlog

from ingestq.app.settings import Settings
from ingestq.core import events
from ingestq.core.errors import UsageError, in_one_line
from ingestq.core.log_limit import LogLimit

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger()

EXPORTERS: Final = "opentelemetry_traces_exporter"
"""The entry points by which packages offer exporters."""
LIBRARY: Final = "opentelemetry"
"""The logger of everything in OpenTelemetry."""
SERVICE_NAME: Final = "service.name"
DEFAULT_SERVICE: Final = "ingestq"
UNKNOWN_SERVICE: Final = "unknown_service"
"""What the SDK calls a service without a name."""
FLUSH_SECONDS: Final = 5.0
"""How long the end of a command may wait for its last spans to be exported."""
INSTALL: Final = "pip install 'ingestq[otel]'"


@contextmanager
def exported_spans(settings: Settings) -> Iterator[None]:
    """Record spans while inside, if the settings or the ``OTEL_*`` variables ask for them.

    Raises UsageError if INGESTQ_TRACING is on and spans cannot be exported. If only ``OTEL_*``
    variables ask, which may be set for all programs of a machine, that is logged instead.
    """
    name = settings.span_exporter
    if name is None:
        yield
        return
    try:
        provider = _start(name)
    except UsageError as error:
        if settings.tracing:
            raise
        log.warning(events.TRACES_UNAVAILABLE, reason=str(error))
        yield
        return
    log.info(events.TRACES_STARTED, exporter=name)
    try:
        yield
    finally:
        _end(provider)


def _start(name: str) -> "TracerProvider":
    """Make spans go to the exporter ``name``. Raises UsageError if that is not possible."""
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import set_tracer_provider
    except ModuleNotFoundError as error:
        raise UsageError(f"traces need OpenTelemetry: {INSTALL}") from error
    exporter = _exporter(name)
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    set_tracer_provider(provider)
    return provider


def _exporter(name: str) -> "SpanExporter":
    found = entry_points(group=EXPORTERS)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or f"none; {INSTALL}"
        raise UsageError(f"the exporter {name!r} of spans is not installed (there are: {known})")
    try:
        exporter: SpanExporter = found[name].load()()
    except Exception as error:  # of a wrong OTEL_* variable, whatever a package raises
        raise UsageError(f"the exporter {name!r} of spans: {in_one_line(error)}") from error
    return patient(exporter)


def _resource() -> "Resource":
    """Return what describes this process: ``OTEL_*`` variables, and a name if they have none."""
    from opentelemetry.sdk.resources import Resource

    found = Resource.create()
    if not str(found.attributes.get(SERVICE_NAME, UNKNOWN_SERVICE)).startswith(UNKNOWN_SERVICE):
        return found
    return found.merge(Resource({SERVICE_NAME: DEFAULT_SERVICE}))


def _end(provider: "TracerProvider") -> None:
    """Export the last spans, but do not wait long for a collector that is away."""
    ending = threading.Thread(target=provider.shutdown, name="end of spans", daemon=True)
    ending.start()
    ending.join(FLUSH_SECONDS)


class _LastMessage(logging.Handler):
    """Keeps the last message of OpenTelemetry, which would log one for each span or request."""

    text = "it does not answer"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of ``record``."""
        self.text = record.getMessage()


def patient(exporter: "SpanExporter") -> "SpanExporter":
    """Return ``exporter`` so that its failures are logged: at the first, and once a minute."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    last = _LastMessage()
    logger = logging.getLogger(LIBRARY)
    logger.handlers, logger.propagate = [last], False

    class Patient(SpanExporter):
        def __init__(self) -> None:
            self._limit = LogLimit()
            self._lost = 0

        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            """Export ``spans``, or log that they are lost. Raises nothing."""
            try:
                result = exporter.export(spans)
            except Exception as error:
                last.text = in_one_line(error)
                result = SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                if self._lost:
                    log.info(events.TRACES_EXPORTED)
                    self._lost, self._limit = 0, LogLimit()
                return result
            self._lost += len(spans)
            if self._limit.skipped() is not None:
                log.warning(events.TRACES_NOT_EXPORTED, spans=self._lost, error=last.text)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Patient()
