"""The routes: one module a subject, each a function that makes its router."""
