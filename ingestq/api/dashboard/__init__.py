"""The dashboard: what the API knows, for people. One page, rendered here, kept up to date by it."""
