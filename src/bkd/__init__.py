"""bkd keeps a Python backend running."""

__version__ = "0.1.0"
