"""Reads request bodies within limits and turns them into documents."""
