"""Embedding models: finding, preparing and running them, in processes or behind an endpoint."""
