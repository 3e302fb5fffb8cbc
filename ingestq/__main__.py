"""``python -m ingestq``."""

from ingestq.cli import main

if __name__ == "__main__":  # also imported, not run, by every child of the process pool
    main()
