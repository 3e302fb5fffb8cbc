"""Webhooks: posts what is in the outbox to its targets."""
