"""A stand-in for an OpenAI-compatible embeddings endpoint, over real HTTP and without a model.

A text's vector is computed from its digest, so it is always the same, and differs between texts.
It has the limits and messages of text-embeddings-inference; `answers` has those of others.
A test plans faults for the next requests, or for every request with a certain text.
"""

from tests.embeddings_endpoint.app import MAX_TEXTS, MAX_WORDS, vector_of
from tests.embeddings_endpoint.server import Endpoint, embeddings_endpoint

__all__ = ["MAX_TEXTS", "MAX_WORDS", "Endpoint", "embeddings_endpoint", "vector_of"]
