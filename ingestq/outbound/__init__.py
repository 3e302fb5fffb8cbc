"""Requests to hosts that a setting or a document names: only to public addresses."""
