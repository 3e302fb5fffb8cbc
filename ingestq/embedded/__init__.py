"""Bundled servers, for those who have none of their own."""
