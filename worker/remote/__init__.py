"""Remote documents in a worker: gives parse processes a copy to read, or lets them read ranges."""
