"""Readers of formats that need more than the parser: bytes in, parts out."""
