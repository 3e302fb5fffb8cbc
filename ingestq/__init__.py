"""ingestq: queue documents from your own program; workers keep a Qdrant collection equal to them.

    from ingestq import IngestClient

    async with IngestClient.connect("redis://localhost:6379/0") as client:
        receipt = await client.submit("invoice-17", text="…", source="erp")
        status = await client.wait(receipt.submission, timeout=60)

Start with `IngestClient`. It takes a `Document` or `Deletion`, returns a `Receipt` and a
`SubmissionStatus`, and raises subclasses of `IngestqError`. After `ServiceUnavailable` or
`QueueFull`, try again later.

A name is loaded when it is first used, so importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ingestq.broker.connection import BrokerConfig
    from ingestq.client.client import IngestClient, new_submission
    from ingestq.core.documents import Deletion, Document, Lane
    from ingestq.core.errors import (
        BlobStoreUnavailable,
        BrokerUnavailable,
        DocumentRejected,
        IngestqError,
        KeyReused,
        QueueFull,
        ServiceUnavailable,
        UploadExpired,
        UsageError,
    )
    from ingestq.core.results import (
        ChunkCounts,
        DocumentCounts,
        DocumentWarning,
        FailedDocument,
        Receipt,
        SubmissionStatus,
        WarningCounts,
    )

__version__ = "0.1.0"

__all__ = [
    "BlobStoreUnavailable",
    "BrokerConfig",
    "BrokerUnavailable",
    "ChunkCounts",
    "Deletion",
    "Document",
    "DocumentCounts",
    "DocumentRejected",
    "DocumentWarning",
    "FailedDocument",
    "IngestClient",
    "IngestqError",
    "KeyReused",
    "Lane",
    "QueueFull",
    "Receipt",
    "ServiceUnavailable",
    "SubmissionStatus",
    "UploadExpired",
    "UsageError",
    "WarningCounts",
    "__version__",
    "new_submission",
]

_MODULES: Final = {
    "ingestq.broker.connection": ("BrokerConfig",),
    "ingestq.client.client": ("IngestClient", "new_submission"),
    "ingestq.core.documents": ("Deletion", "Document", "Lane"),
    "ingestq.core.errors": (
        "BlobStoreUnavailable",
        "BrokerUnavailable",
        "DocumentRejected",
        "IngestqError",
        "KeyReused",
        "QueueFull",
        "ServiceUnavailable",
        "UploadExpired",
        "UsageError",
    ),
    "ingestq.core.results": (
        "ChunkCounts",
        "DocumentCounts",
        "DocumentWarning",
        "FailedDocument",
        "Receipt",
        "SubmissionStatus",
        "WarningCounts",
    ),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
