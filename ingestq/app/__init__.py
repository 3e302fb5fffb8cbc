"""What the commands start: settings, composition, and use cases."""
