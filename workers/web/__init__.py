"""Web workers: an ASGI or WSGI application behind uvicorn's protocol, with an accept and a drain of our own."""

from .interface import AppError
from .web import Web, prepare

__all__ = ["AppError", "Web", "prepare"]
