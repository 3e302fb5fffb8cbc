"""Settings, composition and use cases: everything that commands start."""
