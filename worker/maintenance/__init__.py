"""Compares an index with its sources and repairs it; rebuilds it and cuts over to the new one."""
