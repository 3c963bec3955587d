"""What `bkd.toml` says, checked once and never changed afterwards."""
