"""The Qdrant adapter."""
