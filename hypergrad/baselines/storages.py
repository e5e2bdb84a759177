"""Where a study is kept: a storage of Optuna, opened by its URL."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypergrad.baselines.journal import MendingLock
from hypergrad.errors import InvalidInputError
from hypergrad.files import open_regular
from hypergrad.optional import require

#: The key of a lock in PostgreSQL, any number that nobody else would take.
_MAKING_TABLES = 5_287_302_941
#: How each record of Optuna's journal begins.
_BEGIN = b'{"op_code":'
_FORMS = 'None (in memory), "journal:PATH", "postgresql://USER@HOST/DATABASE" or "sqlite:///PATH"'


def absolute(url: str | None) -> str | None:
    """The URL with a path that does not depend on the working folder.

    Raises:
        InvalidInputError: it is no URL of a storage.
    """
    if url is None:
        return None
    if not isinstance(url, str):
        raise InvalidInputError(f"A storage is {_FORMS}; got {url!r}.")
    for prefix in ("journal:", "sqlite:///"):
        if url.startswith(prefix) and len(url) > len(prefix):
            return prefix + os.path.abspath(url.removeprefix(prefix))
    if url.startswith(("postgresql://", "postgresql+psycopg://")):
        return url
    raise InvalidInputError(f"A storage is {_FORMS}; got {hidden(url)!r}.")


def hidden(url: str | None) -> str:
    """The URL without its password, for messages."""
    return "memory" if url is None else re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def is_sqlite(url: str | None) -> bool:
    """Whether it is an SQLite file, which is not for several writers at once."""
    return url is not None and url.startswith("sqlite:")


def open_storage(url: str | None, *, create: bool) -> Any:
    """The storage as an object of Optuna.

    Args:
        url: of :func:`absolute`.
        create: make what is not there yet; otherwise its absence is an error.

    Raises:
        InvalidInputError: it cannot be opened; the message has the path or the host, and no password.
        MissingLibraryError: Optuna, or the driver of the database, is not installed.
    """
    optuna = require("optuna", "A search", "search")
    if url is None:
        return optuna.storages.InMemoryStorage()
    if url.startswith("postgresql"):
        return _open_database(optuna, "postgresql+psycopg" + url[url.index("://") :])
    path = Path(url.removeprefix("journal:").removeprefix("sqlite:///"))
    if path.is_dir():
        raise InvalidInputError(f"Cannot keep a study in {path}: it is a folder. Give the name of a file in it.")
    if create and not path.parent.is_dir():
        raise InvalidInputError(f"Cannot keep a study in {path}: the folder {path.parent} does not exist. Make it.")
    if not create and not path.is_file():
        raise InvalidInputError(f"There is no file {path}, so no study can be read from it. Check the path.")
    return _open_database(optuna, url) if is_sqlite(url) else _open_journal(optuna, path, create)


def _open_journal(optuna: Any, path: Path, create: bool) -> Any:
    try:
        _check_journal(path)
        lock = MendingLock(str(path))
        if create:  # to write: cut off a torn line now, before a program that does not know of them appends to it
            lock.acquire()
            lock.release()
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
        return optuna.storages.JournalStorage(backend)
    except OSError as error:
        raise InvalidInputError(f"Cannot open {path}: {error.strerror}. Choose another file.") from error
    except InvalidInputError:
        raise
    except Exception as error:  # JSON of another kind, or none: Optuna takes its journal at its word
        raise InvalidInputError(
            f"{path} is no journal of Optuna, or it was damaged ({type(error).__name__}: {str(error)[:200]}). "
            "Name another file."
        ) from error


def _check_journal(path: Path) -> None:
    """Refuse a file that is no journal before anything is written to it, or cut off.

    Raises:
        InvalidInputError: it does not begin as one.
        OSError: it cannot be read.
    """
    if not path.exists():
        return
    with open_regular(path) as file:
        begin = file.read(len(_BEGIN))
    # A first record may be torn.
    if not _BEGIN.startswith(begin):
        raise InvalidInputError(
            f"{path} is no journal of Optuna, or it was damaged: it begins with {begin!r}. Name another file."
        )


def _open_database(optuna: Any, url: str) -> Any:
    if url.startswith("postgresql"):
        require("psycopg", "A study in PostgreSQL", "postgresql")
    sqlalchemy = require("sqlalchemy", "A study in a database", "postgresql")
    try:
        engine = sqlalchemy.create_engine(url)
        try:
            with engine.connect() as connection:
                if url.startswith("postgresql"):
                    # Two commands that make the tables of a new database at once would meet each other's halves.
                    connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_MAKING_TABLES})"))
                # A connection that broke while an attempt ran is made anew.
                return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        finally:
            engine.dispose()  # and with its connection goes the lock
    except sqlalchemy.exc.SQLAlchemyError as error:
        first = str(error).splitlines()[0]
        raise InvalidInputError(f"Cannot open the database {hidden(url)} ({first}). Check the URL.") from error


def close_storage(storage: Any) -> None:
    """Close the connections to a database; nothing for other storages."""
    if hasattr(storage, "engine"):
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells of each new study on stderr, and warns of what it calls experimental; not here."""
    optuna = require("optuna", "A search", "search")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
