"""Data and errors that every part shares; no I/O. Nothing here imports the rest of ingestq."""
