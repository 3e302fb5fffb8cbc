"""A stand-in for an OpenAI-compatible embeddings endpoint, over real HTTP. It knows no model.

A text's vector is made of its digest, so it is the same each time and differs between texts. It
has the limits of text-embeddings-inference and answers in its words; `answers` has those of others.
What goes wrong is planned by a test: for the requests that come next, or for a text whenever it is
asked.
"""

from tests.embeddings_endpoint.app import MAX_TEXTS, MAX_WORDS, vector_of
from tests.embeddings_endpoint.server import Endpoint, embeddings_endpoint

__all__ = ["MAX_TEXTS", "MAX_WORDS", "Endpoint", "embeddings_endpoint", "vector_of"]
