"""Names for things that users and extensions can add: one registration, one lookup."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

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
            shown = repr(name)  # from a file it may be as long as it likes
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise UnknownNameError(
                f"Unknown {self._kind} {shown}.{closest(str(name)[:80], self.names())} "
                f"Registered: {', '.join(self.names()) or 'none'}."
            )
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            loaded: type[T] = getattr(importlib.import_module(module), attribute)
            self._entries[name] = loaded
            return loaded
        return entry

    def options(self, name: str) -> tuple[list[str] | None, list[str]]:
        """The options of the class under ``name`` (None when it takes any), and those of them without a default."""
        cls = self.lookup(name)
        parameters = list(inspect.signature(cls).parameters.values())
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        required = [p.name for p in named if p.default is p.empty]
        kinds = [p.kind for p in parameters]
        if inspect.Parameter.VAR_KEYWORD in kinds:
            # (*args, **kwargs) is a constructor that was inherited and takes nothing, as torch.nn.Module's.
            return ([] if inspect.Parameter.VAR_POSITIONAL in kinds else None), required
        return [p.name for p in named], required

    def make(self, name: str, options: Mapping[str, Any]) -> T:
        """An instance of the class under ``name``.

        Raises:
            UnknownNameError: no such name.
            InvalidInputError: an option that the class does not have, or one that it needs and did not get; the
                message lists those it has. Or a value that its constructor refuses.
        """
        known, required = self.options(name)
        listed = ", ".join(known or required) or "none"
        for option, value in options.items():
            if known is not None and option not in known:
                raise InvalidInputError(
                    f"The {self._kind} {name!r} has no option {option!r} (got {option}={value!r})."
                    f"{closest(option, known)} Options: {listed}."
                )
        missing = [option for option in required if option not in options]
        if missing:
            raise InvalidInputError(
                f"The {self._kind} {name!r} needs the option {missing[0]!r}, which was not given: "
                f"get({name!r}, {missing[0]}=...). Options: {listed}."
            )
        return self.lookup(name)(**options)

    def refuse_options(self, entry: T, options: Mapping[str, Any]) -> T:
        """``entry``, an object that has its options already.

        Raises:
            InvalidInputError: options were given beside it.
        """
        if options:
            raise InvalidInputError(
                f"Options {sorted(options)} were given beside the {self._kind} {type(entry).__name__}, which has "
                "its own; give them to its class."
            )
        return entry

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._entries)
