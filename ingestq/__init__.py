"""The command line and the all-in-one runtime: they wire producers, broker and worker."""
