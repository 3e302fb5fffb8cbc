"""Finds the words of every language, by which a chunk is found."""
