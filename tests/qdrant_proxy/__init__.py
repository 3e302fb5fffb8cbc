"""A proxy in front of Qdrant that refuses, loses or delays exactly the requests that a test names.

    async with qdrant_proxy(qdrant_place) as proxy:
        proxy.faults.drop_next(1, after=True, path_contains="PUT")
        ...  # a client at proxy.url upserts a point, and never learns that it did
        assert proxy.faults.left == 0

Guaranteed:

- Requests without a planned fault or hold, and their answers, pass through unchanged.
- `Faults.answer_next` and `Faults.standing`: Qdrant never sees the request; the client gets the
  planned answer. `tests.qdrant_proxy.answers` has those of a real server.
- `Faults.drop_next`: Qdrant never sees the request, or has carried it out if ``after``; the client
  loses its connection and never sees an answer.
- `Holds.request`: Qdrant sees the request when the test releases it, unless the client has gone
  away meanwhile.
- `Holds.answer`: Qdrant has answered; the client sees the answer when the test releases it.
- If Qdrant goes away while it works on a request, the client loses its connection, too.

The proxy runs in a thread with an event loop of its own, so a test may block while commands and
workers use it.
"""

from tests.qdrant_proxy.bodies import written
from tests.qdrant_proxy.faults import Faults
from tests.qdrant_proxy.holds import Hold, Holds, Matches
from tests.qdrant_proxy.proxy import QdrantProxy, qdrant_proxy

__all__ = ["Faults", "Hold", "Holds", "Matches", "QdrantProxy", "qdrant_proxy", "written"]
