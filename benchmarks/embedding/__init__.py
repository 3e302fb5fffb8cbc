"""Embedding a corpus: ingestq compared with its raw ceiling and with other libraries.

See `benchmarks.embedding.__main__`.
"""
