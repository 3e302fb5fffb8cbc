"""Turns bytes of any encoding into clean text."""
