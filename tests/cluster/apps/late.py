"""Imported only when somebody asks for it."""

VALUE = "1"
