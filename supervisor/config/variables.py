"""`${VAR}` and `${VAR:-default}` in the strings of the configuration; `$${` stands for `${` itself."""

import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-((?:(?!\$\{)[^}])*))?\})?")


class MissingVariableError(ValueError):
    """The variable `name` is not set and has no default."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with its variables filled in: `:-` gives the default when the variable is not set or empty.

    Raises MissingVariableError, and ValueError when a `${` does not begin a variable.
    """
    return _VARIABLE.sub(lambda match: _value(match, environ), text) if "${" in text else text


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    name, default = match.group(1, 2)
    if match[0] == "$${":
        return "${"
    if name is None:
        raise ValueError("a ${ that begins no variable")
    if default is not None:
        return environ.get(name) or default
    if name not in environ:
        raise MissingVariableError(name)
    return environ[name]
