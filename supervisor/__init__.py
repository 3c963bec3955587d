"""The processes that watch: keeper and master, and what the command line needs of them."""
