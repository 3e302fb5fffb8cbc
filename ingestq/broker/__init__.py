"""The queue in Redis: connection, keys and scripts, and the classes that use them."""
