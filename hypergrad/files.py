"""Files: written whole or not at all, and JSON read without mercy: a mistake is named by file, field and value."""

import contextlib
import errno
import io
import json
import math
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypergrad.errors import InvalidInputError
from hypergrad.registry import closest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Pathlike = str | os.PathLike[str]

#: Bytes of a file of settings or records that are read at most, and brackets within each other.
LARGEST, DEEPEST = 1 << 30, 64

#: Of the files that :func:`write_atomically` renames at the end: what a kill leaves of one that was being written.
TEMPORARY = ".hypergrad-*.tmp"


def write_atomically(path: Pathlike, data: bytes | str) -> None:
    """Write a file so that at every moment, even if the machine stops, either the old content is there or the new.

    The data goes to a temporary file in the same folder, is forced to the disk and renamed; then the folder is forced
    to the disk. An existing file keeps its permissions, and a symbolic link stays one.

    Args:
        path: of the file; its folder must exist.
        data: text is encoded in UTF-8.

    Raises:
        InvalidInputError: the folder does not exist, a folder has the file's name, or it may not be written there.
        OSError: anything else, such as a full disk.

    In each case what was there is unchanged and no temporary file stays.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise InvalidInputError(f"Cannot write {target}: the folder {target.parent} does not exist. Make it first.")
    if target.is_dir():
        raise InvalidInputError(f"Cannot write {target}: it is a folder. Give the name of a file in it.")
    if target.exists() and not os.access(target, os.W_OK):
        raise InvalidInputError(f"Cannot write {target}: the file is read-only. Choose another name.")
    # A short name of its own: the file's own may be as long as the file system allows already.
    temporary = target.parent / TEMPORARY.replace("*", secrets.token_hex(8))
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InvalidInputError(
                f"Cannot write {target}: {error.strerror}. Choose a folder that can be written to."
            ) from error
        error.add_note(f"Writing {target} failed; what was there before is unchanged.")
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Force the rename to the disk. Some systems have no such thing for folders; the file is whole all the same."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Field:
    """A value of a JSON file and where it stands; each method checks it and returns it as what it must be.

    Attributes:
        file: the file's path, as given.
        where: the way to the value, ``"stages[0][3].pi"``; empty for the whole.
        value: as JSON holds it.

    Every method raises :class:`~hypergrad.errors.InvalidInputError` with file, place, value and remedy.
    """

    file: str
    where: str
    value: Any

    def error(self, must: str) -> InvalidInputError:
        """The error that says what the value must be, and is not."""
        return InvalidInputError(f"{self.file}: {self.where or 'the content'} must be {must}; got {short(self.value)}.")

    def fields(self, *names: str, optional: tuple[str, ...] = ()) -> dict[str, "Field"]:
        """The members of an object: all of ``names``, perhaps ``optional`` ones, and no other."""
        if not isinstance(self.value, dict):
            raise self.error(f"an object with the fields {', '.join(names)}")
        prefix = f"{self.where}." if self.where else ""
        known = [*names, *optional]
        place = self.where or "the content"
        for name in self.value:
            if name not in known:
                raise InvalidInputError(
                    f"{self.file}: {place} has an unknown field {short(name)}.{closest(name[:80], known)} "
                    f"Leave it out; there are: {', '.join(known)}."
                )
        for name in names:
            if name not in self.value:
                raise InvalidInputError(
                    f"{self.file}: {place} lacks the field {name!r}. Add it; needed are: {', '.join(names)}."
                )
        return {name: Field(self.file, prefix + name, value) for name, value in self.value.items()}

    def member(self, name: str) -> "Field":
        """One member of an object."""
        others = tuple(self.value) if isinstance(self.value, dict) else ()
        return self.fields(name, optional=others)[name]

    def items(self, length: int | None = None) -> list["Field"]:
        """The members of a list of that length, or of any length but 0."""
        wanted = "a non-empty list" if length is None else f"a list of {length}"
        if not isinstance(self.value, list):
            raise self.error(wanted)
        if len(self.value) != length if length is not None else not self.value:
            raise self.error(f"{wanted}, not of {len(self.value)}")
        return [Field(self.file, f"{self.where}[{i}]", value) for i, value in enumerate(self.value)]

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in [low, high]."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.error("a number")
        # The bounds of finite doubles: an integer of JSON may be longer than that, and 1e999 is read as infinity.
        if not -1.7e308 < self.value < 1.7e308:
            raise self.error("a finite number")
        if not low <= self.value <= high:
            raise self.error(f"a number in [{low:g}, {high:g}]")
        return self.value

    def positive(self) -> float:
        """A finite number above 0."""
        value = self.number()
        if value <= 0:
            raise self.error("a positive number")
        return value

    def integer(self, low: int) -> int:
        """An integer of at least ``low``."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < low:
            raise self.error(f"an integer of at least {low}")
        return self.value

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            raise self.error("a string")
        return self.value

    def one_of(self, *allowed: str) -> str:
        """One of some strings."""
        if self.value not in allowed:
            raise self.error(" or ".join(repr(a) for a in allowed))
        return str(self.value)

    def flag(self) -> bool:
        """``true`` or ``false``."""
        if not isinstance(self.value, bool):
            raise self.error("true or false")
        return self.value


def read_json(path: Pathlike) -> Field:
    """The content of a JSON file. Nothing in it is executed.

    Raises:
        InvalidInputError: there is no such file, it cannot be read, or :func:`parse_json` refuses it.
    """
    file = os.fspath(path)
    try:
        raw = read_bytes(file)
    except FileNotFoundError as error:
        raise InvalidInputError(f"There is no file {file}. Check the path (from {os.getcwd()}).") from error
    except OSError as error:
        raise InvalidInputError(f"Cannot read {file}: {error.strerror}. Give the path of a readable file.") from error
    return Field(file, "", parse_json(raw, file))


def parse_json(text: bytes, place: str) -> Any:
    """What JSON says.

    Args:
        text: in UTF-8.
        place: file, and perhaps line, for messages.

    Raises:
        InvalidInputError: it is not JSON in UTF-8, a number is NaN or infinite, an object has a field twice, or
            brackets are nested more than 64 deep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            name = next(n for n, _ in pairs if n in seen or seen.add(n))  # type: ignore[func-returns-value]
            raise InvalidInputError(f"{place}: an object has the field {short(name)} twice. Leave one out.")
        return found

    def refuse(constant: str) -> Any:
        raise InvalidInputError(f"{place}: {constant} is not a finite number. Write one, or make the file anew.")

    try:
        found = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{place} is not JSON ({error}). Mend it there, or make the file anew.") from error
    check_depth(found, place)
    return found


def check_depth(content: Any, place: str) -> None:
    """Refuse what is nested so deep that reading it further would overflow Python's stack.

    Raises:
        InvalidInputError: it is nested more than 64 deep.
    """
    level, depth = [content], 0
    while level:
        members = (m for held in level for m in (held.values() if isinstance(held, dict) else held))
        level = [m for m in ([content] if depth == 0 else members) if isinstance(m, dict | list)]
        depth += bool(level)
        if depth > DEEPEST:
            raise InvalidInputError(f"{place} is nested more than {DEEPEST} deep. Make the file anew.")


def short(value: object, length: int = 80) -> str:
    """The beginning of a value's representation, for messages: what stands in a file may be as long as it likes."""
    shown = repr(value)
    return shown if len(shown) <= length else shown[: length - 3] + "..."


def open_regular(path: Pathlike) -> io.BufferedReader:
    """Open a regular file for reading: a pipe would keep the process waiting, and a device need never end.

    Raises:
        OSError: there is none, it cannot be read, or it is something else; ``strerror`` says what.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a zero byte") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, not a regular file", os.fspath(path))
    return open(path, "rb")


def read_bytes(path: Pathlike, limit: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as :func:`open_regular`, or it has more than ``limit`` bytes.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit:,d} bytes", os.fspath(path))
        return file.read()


@contextlib.contextmanager
def held(folder: Pathlike) -> Iterator[None]:
    """Hold a folder against other processes; the hold ends with the process, however it ends.

    Where the system has no such locks, nothing is held.

    Args:
        folder: exists; gets a file ``lock`` with the number of the process.

    Raises:
        InvalidInputError: another process holds it; the message names it.
    """
    if fcntl is None:
        yield
        return
    path = Path(folder) / "lock"
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise InvalidInputError(
            f"Cannot write {path} ({error.strerror}). Choose a folder that can be written to."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InvalidInputError(
                f"{folder} is in use by process {file.read(80).strip() or 'unknown'}. Wait until it has ended."
            ) from error
        except OSError:  # a network file system without locks
            yield
            return
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
