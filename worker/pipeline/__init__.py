"""Ingests, deletes and sweeps documents: makes the index equal to them, and returns an outcome.

`ingest` is the order of steps, `ports` what it needs from the model and the stores.
"""
