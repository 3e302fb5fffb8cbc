"""Measurements of ingestq, each beside the way it replaces, in one run on one machine."""
