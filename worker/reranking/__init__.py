"""Reranking: a cross encoder reads the query together with each hit, and orders the hits anew."""
