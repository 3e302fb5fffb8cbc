"""Requests to hosts that a setting or a document names, and connections to remote stores."""
