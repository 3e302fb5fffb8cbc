"""The HTTP API: a producer for programs that do not speak Python."""
