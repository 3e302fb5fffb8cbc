"""Processes that run tasks within limits, and are replaced when they die."""
