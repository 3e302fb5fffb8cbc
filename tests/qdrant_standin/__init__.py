"""A stand-in for a Qdrant 1.19 server, for tests on machines without one. It is not Qdrant.

It serves the requests that ingestq sends through qdrant-client, over real HTTP, from the client's
own local mode in memory. So it tests the network path: URLs, bodies, statuses, how errors arrive,
and what is retried. It tests nothing about durability, speed, indexes, memory, clusters, or two
writers at the same instant, because it handles one request at a time.

It must never be more lenient than the server, or tests would pass that should fail. Where the local
mode is, `tests.qdrant_standin.strict` refuses what the server refuses. Unknown requests are
answered with 501. What only a server can show is tested with ``INGESTQ_TEST_QDRANT_URL``.

``python -m tests.qdrant_standin --port 0`` prints its URL and serves until SIGTERM.
"""

from tests.qdrant_standin.faults import Faults
from tests.qdrant_standin.holds import Hold, Holds
from tests.qdrant_standin.server import Standin, qdrant_standin

__all__ = ["Faults", "Hold", "Holds", "Standin", "qdrant_standin"]
