"""Reads files and JSON Lines as documents."""
