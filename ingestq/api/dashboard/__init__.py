"""The dashboard: one page, rendered on the server and kept up to date by an event stream."""
