"""Cuts text into chunks, and says where in its document each stands."""
