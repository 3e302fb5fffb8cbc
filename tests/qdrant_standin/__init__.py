"""A stand-in for a Qdrant 1.19 server, for tests on machines that have none. It is not Qdrant.

It answers the requests that qdrant-client's REST client sends for what ingestq does, over real
HTTP, out of the client's own local mode in memory. So it shows that the network path holds
together: URLs, bodies, statuses, how an error arrives, what is sent again and what is not. It
shows nothing about durability, speed, indexes, memory, clusters, or two writers at the same
instant: requests are handled one after the other.

It must never be easier than the server, or tests pass that should not: where the local mode is
more lenient, `tests.qdrant_standin.strict` refuses what the server refuses. A request that it does
not know is answered 501. What only a server can show is tested with ``INGESTQ_TEST_QDRANT_URL``.

``python -m tests.qdrant_standin --port 0`` prints its URL and serves until SIGTERM.
"""

from tests.qdrant_standin.faults import Faults
from tests.qdrant_standin.holds import Hold, Holds
from tests.qdrant_standin.server import Standin, qdrant_standin

__all__ = ["Faults", "Hold", "Holds", "Standin", "qdrant_standin"]
