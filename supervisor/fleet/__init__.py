"""One set of verbs on every host: commands over the bus, who obeys them, and how they went."""
