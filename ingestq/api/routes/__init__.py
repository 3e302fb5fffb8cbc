"""The routes: one module per subject, with a function that returns its router."""
