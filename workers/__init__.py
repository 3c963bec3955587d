"""The processes that work: zygotes and the kinds of workers they fork."""
