"""From TOML values to declared ones, with every fault kept."""

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from msgspec import UNSET

from .faults import Faults, Key
from .forms import form_of
from .schema import GroupSection, Section
from .variables import MissingVariableError, expand


class Reader:
    """Reads tables as the schema declares them. A value with a fault is left out, as if it were not given.

    `lenient` is for overrides meant for other hosts: a variable that is not set here is no fault there.
    """

    def __init__(self, environ: Mapping[str, str], faults: Faults, *, lenient: bool = False) -> None:
        self.faults = faults
        self._environ = environ
        self._lenient = lenient

    def section(self, kind: type[Section], table: object, key: Key) -> dict[str, Any]:
        """The options given in one table."""
        named_by_header = {"name"} if kind is GroupSection else set()
        declared = {name: of for name, of in kind.__annotations__.items() if name not in named_by_header}
        options = {}
        for name, value in self.table(table, key).items():
            if name not in declared:
                self.faults.unknown((*key, name), declared)
            elif (option := self.value(declared[name], value, (*key, name))) is not UNSET:
                options[name] = option
        return options

    def table(self, table: object, key: Key) -> dict[str, Any]:
        """The table itself, or an empty one and a fault."""
        if isinstance(table, dict):
            return table
        self.faults.add(key, "a table", table)
        return {}

    def value(self, kind: Any, value: Any, key: Key) -> Any:
        """One value as `kind` declares it, or UNSET."""
        if get_origin(kind) is list:
            return self._items(get_args(kind)[0], value, key)
        if get_origin(kind) is dict:
            return self._entries(value, key)
        plain = self.text(value, key) if isinstance(value, str) else value
        if plain is UNSET:
            return UNSET
        form = form_of(kind)
        try:
            return form.read(plain)
        except ValueError:
            self.faults.add(key, form.expected, value)
            return UNSET

    def text(self, text: str, key: Key) -> Any:
        """A string with its variables filled in, or UNSET."""
        try:
            full = expand(text, self._environ)
            full.encode()
        except MissingVariableError as error:
            if not self._lenient:
                self.faults.add(key, f"{error.name} in the environment (or ${{{error.name}:-DEFAULT}})")
            return UNSET
        except UnicodeEncodeError:
            self.faults.add(key, "variables that hold UTF-8", text)
            return UNSET
        except ValueError:
            self.faults.add(key, "${VAR} or ${VAR:-default} ($${ for ${ itself)", text)
            return UNSET
        if "\0" not in full:
            return full
        self.faults.add(key, "a string without NUL", text)
        return UNSET

    def _items(self, kind: Any, value: Any, key: Key) -> Any:
        if not isinstance(value, list):
            self.faults.add(key, "a list of strings", value)
            return UNSET
        items = [self.value(kind, item, (*key, index)) for index, item in enumerate(value)]
        return UNSET if UNSET in items else items

    def _entries(self, value: Any, key: Key) -> Any:
        if not isinstance(value, dict):
            self.faults.add(key, "a table of strings", value)
            return UNSET
        for name in value:
            if not name or "=" in name or "\0" in name:
                self.faults.add((*key, name), "the name of a variable")
        entries = {name: self.value(str, item, (*key, name)) for name, item in value.items()}
        return {name: item for name, item in entries.items() if item is not UNSET}
