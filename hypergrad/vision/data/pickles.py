"""Pickles of numpy arrays, as CIFAR's files are, read so that nothing in them runs and nothing in them can be huge.

A pickle is a program. Here its instructions are looked through first, and only those that build numbers, text, lists,
dictionaries and arrays pass; then each name that it refers to gives something of ours, never what it names.
"""

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from hypergrad.errors import InvalidInputError

#: Instructions that data need. Those for objects by class, for outside buffers and for extension codes are not here.
_ALLOWED = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "LONG1",
    "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip
#: Tuples, each of which may hold the one before: hashing what is nested deeper overflows the stack of the interpreter.
_TUPLES = 10_000
_NUMBERS = re.compile(r"[?buif][1248]?")


class _Dtype:
    """In the place of ``numpy.dtype``: remembers what was asked for; the numbers' kind, never an object's."""

    def __init__(self, code: Any, *flags: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
            raise pickle.UnpicklingError(f"an array of {text!r:.40}, which are no numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"numbers in the byte order {order!r:.40}")
        self.dtype = np.dtype(order + self.dtype.str[1:])


class _Array(np.ndarray[Any, Any]):
    """An array that takes its content from a pickle only where shape, kind and length agree."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, content = state
        if not isinstance(kind, _Dtype) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array whose numbers are not bytes")
        if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * kind.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array of the shape {shape!r:.60} with {len(content)} bytes")
        super().__setstate__((1, shape, kind.dtype, bool(columns_first), content))  # type: ignore[arg-type]


class _Kind:
    """In the place of ``numpy.ndarray``, which a pickle could call with a shape of any size; this takes none."""


def _reconstruct(kind: Any, *rest: Any) -> _Array:
    if kind is not _Kind:
        raise pickle.UnpicklingError("an array that is of another class")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in protocol 2; only for the one encoding that it uses."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


#: What a pickled array of numbers refers to, under numpy's old and new module names.
_NAMES = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Kind,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Gives dictionaries, lists, numbers, text and numpy arrays; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _NAMES[module, name]


def _look_through(content: bytes) -> None:
    """Refuse instructions that data do not need, and places in the memo that would make it huge."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _ALLOWED:
            raise pickle.UnpicklingError(f"the instruction {opcode.name}")
        tuples += "TUPLE" in opcode.name
        if tuples > _TUPLES or ("PUT" in opcode.name and int(argument or 0) > len(content)):
            raise pickle.UnpicklingError(f"{tuples} tuples, or place {argument} in a file of {len(content)} bytes")


def unpickle_arrays(content: bytes, file: object) -> Any:
    """What a pickle holds, if that is numpy arrays of numbers, numbers and text in lists and dictionaries.

    Pickles of Python 2 give their strings as bytes.

    Args:
        content: of the file.
        file: for messages.

    Raises:
        InvalidInputError: it is damaged, or refers to anything else, which is named and was not executed.
    """
    try:
        _look_through(content)
        return _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise InvalidInputError(
            f"{file} was refused: it is not a whole pickle of arrays and numbers ({error}). Nothing in it was "
            "executed. Get the file anew from its official page."
        ) from error
