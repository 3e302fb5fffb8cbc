"""Jobs: enqueue, claim and acknowledge them, and read what is waiting and what failed."""
