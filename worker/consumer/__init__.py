"""Takes jobs off the queue under leases, and decides what becomes of them."""
