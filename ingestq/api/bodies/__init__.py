"""Request bodies: read within limits, and turned into documents."""
