"""Ingests one document: the index is made equal to it, and the outcome is a value."""
