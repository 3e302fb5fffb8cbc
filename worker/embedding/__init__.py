"""Models: found, made ready once, and run in processes."""
