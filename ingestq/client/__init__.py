"""The client: what a program of your own needs to put documents on the queue."""
