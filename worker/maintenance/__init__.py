"""Verify, repair, reindex and cut-over."""
