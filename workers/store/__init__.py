"""Where durable messages live: one protocol, and its stores."""
