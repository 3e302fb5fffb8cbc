"""Workers take documents off the queue and keep Qdrant equal to them."""
