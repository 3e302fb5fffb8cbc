"""The queue in Redis: its keys, its scripts, and what reads and writes them."""
