"""Jobs: enqueue, claim, acknowledge, look at what waits and what failed."""
