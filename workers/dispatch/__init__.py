"""The dispatcher: the one process of a host that owns the store, hands messages to executors, and writes outcomes."""
