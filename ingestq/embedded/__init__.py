"""Bundled servers, for users who have none of their own."""
