"""Embedding a corpus: ingestq beside its own raw ceiling and beside what users run instead.

See `benchmarks.embedding.__main__`.
"""
