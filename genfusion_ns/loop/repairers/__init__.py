"""Whoever turns flawed renders into better frames: the socket, and what is plugged into it."""
