"""Files from strangers: members of tar archives by name, MATLAB files, checksums; nothing grows beyond its bounds."""

import errno
import gzip
import hashlib
import io
import posixpath
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from hypergrad.errors import InvalidInputError
from hypergrad.files import open_regular, read_bytes, short
from hypergrad.optional import require

#: Decompressed bytes that are read at most: so many, and so many times the size of the file. Pictures and pixels shrink
#: to a half or a fifth; what shrinks to a hundredth is a mistake, or made to fill the memory.
SPARE, RATIO = 256 << 20, 20
#: Bytes of one file of a data set.
LARGEST = 16 << 30


class Bounded:
    """A stream that ends in an error where more comes out of a compressed file than its size can explain.

    Args:
        stream: to be read from.
        packed: size of the compressed file, in bytes.
    """

    def __init__(self, stream: "IO[bytes] | gzip.GzipFile | _Inflated", packed: int) -> None:
        self._stream = stream
        self._left = SPARE + RATIO * packed

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes.

        Raises:
            OSError: more than the limit was read.
        """
        content = self._stream.read(min(size, 1 << 20))
        self._left -= len(content)
        if self._left < 0:
            raise OSError(errno.EFBIG, f"it decompresses to more than {RATIO} times its size and {SPARE:,d} bytes")
        return content

    def read_all(self, most: int) -> bytes:
        """What is left, or ``most`` bytes of it."""
        parts = []
        while most > 0 and (part := self.read(most)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)


def read_members(archive: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of members of a tar archive, gzipped or plain; nothing is unpacked onto the disk.

    Args:
        archive: the file.
        wanted: names of members, with ``/``.

    Returns:
        Those of ``wanted`` that the archive holds as regular files.

    Raises:
        InvalidInputError: the archive cannot be read to its end, decompresses to more than its size can explain, or a
            member's name is absolute or has ``..``.
    """
    found: dict[str, bytes] = {}
    try:
        with _opened(archive) as opened:
            stream = Bounded(opened, archive.stat().st_size)
            # In the mode of pipes, sizes that the archive only claims are never allocated.
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                _collect(tar, archive, wanted, found)
            # To the very end, where gzip's checksum stands: tarfile takes damage in the middle for the end.
            while stream.read(1 << 20):
                pass
    except InvalidInputError:
        raise
    except Exception as error:  # tarfile raises almost anything on a damaged header
        raise InvalidInputError(
            f"{archive} cannot be read ({error}); it is damaged or cut short. Get it anew."
        ) from error
    return found


def _collect(tar: tarfile.TarFile, archive: Path, wanted: Collection[str], found: dict[str, bytes]) -> None:
    for member in tar:
        name = posixpath.normpath(member.name)
        if name.startswith("/") or ".." in member.name.split("/"):
            raise InvalidInputError(
                f"{archive} was refused: its member {short(member.name)} points out of the archive. Get it anew from "
                "its official page."
            )
        # Links, devices and files with holes (which may be any size) are none of the sets'.
        if name in wanted and member.isfile() and not member.issparse():
            content = tar.extractfile(member)
            assert content is not None  # a regular file
            found[name] = content.read()


def _opened(archive: Path) -> IO[bytes] | gzip.GzipFile:
    with open_regular(archive) as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive, "rb") if packed else open(archive, "rb")


def check_md5(path: Path, expected: str) -> None:
    """Compare a file with its published MD5 sum, which shows damage (it is no protection against an attacker).

    Raises:
        InvalidInputError: they differ, or the file cannot be read.
    """
    try:
        with open_regular(path) as file:
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
        return read_bytes(path, LARGEST)
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
        _check_mat(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what scipy only warns of (a name twice) is damage here
            found = loadmat(io.BytesIO(content), variable_names=list(fields), simplify_cells=simplify)
    except Exception as error:  # a damaged file raises almost anything
        raise InvalidInputError(
            f"{file} cannot be read as a MATLAB file ({type(error).__name__}: {error}); it is damaged or cut short. "
            "Get it anew."
        ) from error
    for field in fields:
        if field not in found:
            raise InvalidInputError(f"{file} has no variable {field!r}. It is another file: get the set's own anew.")
        if not simplify and type(found[field]) is not np.ndarray:
            raise InvalidInputError(f"{file}: the variable {field!r} is no array of numbers. Get the file anew.")
    return found


def _check_mat(content: bytes) -> None:
    """Go through the variables of a MATLAB file of version 5 before scipy does, which trusts their sizes.

    Raises:
        ValueError: another version, or an element that is cut off.
        OSError: one decompresses to more than its size can explain.
    """
    if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise ValueError("it is not of version 5")
    order = "<" if content[126:128] == b"IM" else ">"
    place = 128
    while place + 8 <= len(content):
        kind, size = struct.unpack(f"{order}2I", content[place : place + 8])
        if place + 8 + size > len(content):
            raise ValueError("it ends inside of a variable")
        if kind == 15:  # compressed
            unpacked = Bounded(_Inflated(content[place + 8 : place + 8 + size]), len(content))
            while unpacked.read(1 << 20):
                pass
        place += 8 + size


def integers(values: object, file: object) -> list[int]:
    """Numbers of a MATLAB variable, which keeps integers as floating-point numbers.

    Raises:
        InvalidInputError: they are no integers, or beyond any count.
    """
    try:
        array = np.asarray(values).reshape(-1)
        whole = array.dtype.kind in "uif" and bool(np.all((array == np.floor(array)) & (np.abs(array) < 2**31)))
    except (ValueError, TypeError) as error:  # lists of different lengths
        raise InvalidInputError(f"{file}: numbers of images and classes must be integers; got {error}.") from error
    if not whole:
        raise InvalidInputError(f"{file}: numbers of images and classes must be integers; got {array.dtype}.")
    return [int(value) for value in array]


class _Inflated:
    """A zlib stream to read from, a part at a time."""

    def __init__(self, packed: bytes) -> None:
        self._inflate, self._packed = zlib.decompressobj(), packed

    def read(self, size: int) -> bytes:
        found = self._inflate.decompress(self._packed, size)
        self._packed = self._inflate.unconsumed_tail
        return found
