"""Data of older versions, and the programs that made it."""
