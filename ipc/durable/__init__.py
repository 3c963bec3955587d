"""Durable messages as values: what a message is, what is decided about it, and how it travels on a host."""
