"""The code that a deploy replaces."""

VERSION = "1"
