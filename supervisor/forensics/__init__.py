"""What became of a process, and why: evidence while it lives, a report when it is gone."""
