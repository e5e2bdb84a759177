"""Files from strangers: members of tar archives by name, pickles of numpy arrays and nothing else, checksums."""

import gzip
import hashlib
import io
import pickle
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from hypergrad.errors import InvalidInputError
from hypergrad.optional import require

#: What a pickled array of numbers refers to, under numpy's old and new module names.
_ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in protocol 2; only for the one encoding that it uses."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Gives dictionaries, lists, numbers, text and numpy arrays; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _ARRAYS[module, name]


def unpickle_arrays(content: bytes, file: object) -> Any:
    """What a pickle holds, if that is numpy arrays, numbers and text in lists and dictionaries.

    Pickles of Python 2 give their strings as bytes.

    Args:
        content: of the file.
        file: for messages.

    Raises:
        InvalidInputError: it is damaged, or refers to anything else, which is named and was not executed.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise InvalidInputError(
            f"{file} was refused: it is not a whole pickle of arrays and numbers ({error}). Nothing in it was "
            "executed. Get the file anew from its official page."
        ) from error


def read_members(archive: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of members of a tar archive, gzipped or plain; nothing is unpacked onto the disk.

    Args:
        archive: the file.
        wanted: names of members, with ``/``.

    Returns:
        Those of ``wanted`` that the archive holds as regular files.

    Raises:
        InvalidInputError: the archive cannot be read to its end, or a member's name is absolute or has ``..``.
    """
    found: dict[str, bytes] = {}
    try:
        with _opened(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                name = posixpath.normpath(member.name)
                if name.startswith("/") or ".." in member.name.split("/"):
                    raise InvalidInputError(
                        f"{archive} was refused: its member {member.name!r} points out of the archive. Get it anew "
                        "from its official page."
                    )
                if name in wanted and member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None  # a regular file
                    found[name] = content.read()
            # To the very end, where gzip's checksum stands: tarfile takes damage in the middle for the end.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(
            f"{archive} cannot be read ({error}); it is damaged or cut short. Get it anew."
        ) from error
    return found


def _opened(archive: Path) -> IO[bytes] | gzip.GzipFile:
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive, "rb") if packed else open(archive, "rb")


def check_md5(path: Path, expected: str) -> None:
    """Compare a file with its published MD5 sum, which shows damage (it is no protection against an attacker).

    Raises:
        InvalidInputError: they differ, or the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    if found != expected:
        raise InvalidInputError(
            f"{path} has the MD5 sum {found}; published is {expected}. It holds {path.stat().st_size} bytes, and is "
            "damaged, cut short or another file. Get it anew, or pass verify=False if it is meant to differ."
        )


def read_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def read_mat(content: bytes, file: object, *fields: str, simplify: bool = False) -> dict[str, Any]:
    """Variables of a MATLAB file of version 5 (scipy reads it; nothing in it is executed).

    Args:
        content: of the file.
        file: for messages.
        fields: the variables that must be there.
        simplify: give structures as dictionaries and squeeze arrays.

    Raises:
        InvalidInputError: it cannot be read, or a variable is not there.
        MissingLibraryError: scipy is not installed.
    """
    loadmat: Callable[..., dict[str, Any]] = require("scipy.io", f"Reading {file}", "vision").loadmat
    try:
        found = loadmat(io.BytesIO(content), variable_names=list(fields), simplify_cells=simplify)
    except Exception as error:  # a damaged file raises almost anything
        raise InvalidInputError(
            f"{file} cannot be read as a MATLAB file ({type(error).__name__}: {error}); it is damaged or cut short. "
            "Get it anew."
        ) from error
    for field in fields:
        if field not in found:
            raise InvalidInputError(f"{file} has no variable {field!r}. It is another file: get the set's own anew.")
    return found
