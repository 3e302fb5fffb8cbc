"""Producers put documents on the queue."""
