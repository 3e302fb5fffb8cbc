"""The client with which a program of your own puts documents on the queue."""
