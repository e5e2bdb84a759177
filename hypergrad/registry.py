"""Names for things that users and extensions can add: one registration, one lookup."""

import difflib
import importlib
from collections.abc import Callable
from typing import Generic, TypeVar

from hypergrad.errors import InvalidInputError, UnknownNameError

T = TypeVar("T")


def closest(name: str, names: list[str]) -> str:
    """``' Did you mean 'cg'?'`` when a name is close to ``name``, else the empty string."""
    match = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


class Registry(Generic[T]):
    """A table of names. A built-in of a higher level is given as ``"module:Name"`` and imported on first use.

    Args:
        kind: what the entries are, in the singular, for messages (``"solver"``).
        builtins: names mapped to ``"module:Name"``.
    """

    def __init__(self, kind: str, builtins: dict[str, str] | None = None) -> None:
        self._kind = kind
        self._entries: dict[str, type[T] | str] = dict(builtins or {})

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator that adds a class under ``name``.

        Raises:
            InvalidInputError: the name is empty, not a string, or already taken by another class.
        """
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"A {self._kind} is registered under a non-empty string; got {name!r}.")

        def add(cls: type[T]) -> type[T]:
            held = self._entries.get(name)
            own = f"{cls.__module__}:{cls.__qualname__}"
            taken = held if held is None or isinstance(held, str) else f"{held.__module__}:{held.__qualname__}"
            # The same class may come again (a built-in imported on first use, a notebook cell run twice).
            if taken not in (None, own):
                raise InvalidInputError(
                    f"The {self._kind} name {name!r} is already taken by {taken}; register {own} under another name."
                )
            self._entries[name] = cls
            return cls

        return add

    def lookup(self, name: str) -> type[T]:
        """The class registered under ``name``.

        Raises:
            UnknownNameError: no such name; the message lists those that exist.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownNameError(
                f"Unknown {self._kind} {name!r}.{closest(str(name), self.names())} "
                f"Registered: {', '.join(self.names()) or 'none'}."
            )
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            loaded: type[T] = getattr(importlib.import_module(module), attribute)
            self._entries[name] = loaded
            return loaded
        return entry

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._entries)
