"""Files are written whole or not at all, and JSON that is wrong is refused by name."""

import errno
import os
import re
import stat
from pathlib import Path

import pytest

from hypergrad.errors import InvalidInputError
from hypergrad.files import Field, read_json, write_atomically


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    write_atomically(str(path), b"\x00\xff\r\n")
    assert path.read_bytes() == b"\x00\xff\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    path, link, new = tmp_path / "file", tmp_path / "link", tmp_path / "new"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomically(link, "through")
    assert link.is_symlink()
    assert path.read_text() == "through"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_atomically(new, "x")
    with open(tmp_path / "ordinary", "w"):
        pass
    assert new.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_the_data_is_on_the_disk_before_the_name_and_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    sync, replace = os.fsync, os.replace

    def spy_sync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def spy_replace(old: Path, new: Path) -> None:
        assert Path(old).parent == Path(new).parent
        assert Path(old).read_bytes() == b"whole"
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write_atomically(tmp_path / "file", "whole")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (OSError(errno.EROFS, "Read-only file system"), InvalidInputError, "Read-only file system. Choose a folder"),
        (PermissionError(errno.EACCES, "Permission denied"), InvalidInputError, "Permission denied. Choose a folder"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_what_was_there_survives(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    raised: BaseException,
    error: type[BaseException],
    message: str,
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(error, match=re.escape(message)) as caught:
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if error is OSError:
        assert "what was there before is unchanged" in caught.value.__notes__[0]


def test_a_folder_that_cannot_be_forced_to_the_disk_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    write_atomically(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="the folder .*missing does not exist. Make it first"):
        write_atomically(tmp_path / "missing" / "file", "")
    with pytest.raises(InvalidInputError, match="it is a folder. Give the name of a file in it"):
        write_atomically(tmp_path, "")
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o400)
    # The tests may run as root, who may write everything.
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InvalidInputError, match="file is read-only. Choose another name"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "f.json is not JSON (Expecting property name"),
        (b"", "f.json is not JSON (Expecting value"),
        (b'{"a": 1} 2', "f.json is not JSON (Extra data"),
        (b"\xff\xfe", "f.json is not JSON ('utf-8' codec"),
        (b"[" * 200_000, "f.json is not JSON (maximum recursion depth"),
        (b"[NaN]", "f.json: NaN is not a finite number"),
        (b"[-Infinity]", "f.json: -Infinity is not a finite number"),
        (b'{"a": {"b": 1, "b": 2}}', "f.json: an object has the field 'b' twice"),
    ],
)
def test_not_json(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        read_json(tmp_path / "f.json")


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"There is no file .*f\.json. Check the path \(from "):
        read_json(tmp_path / "f.json")
    with pytest.raises(InvalidInputError, match="Cannot read .*: Is a directory"):
        read_json(tmp_path)


def field(value: object) -> Field:
    return Field("f.json", "a", value)


def test_fields_that_are_right(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"a": [{"b": 0.25, "c": "x"}, true, 3]}')
    first, second, third = read_json(tmp_path / "f.json").fields("a")["a"].items()
    inside = first.fields("b", optional=("c", "d"))
    assert (inside["b"].number(), inside["b"].positive(), inside["c"].text()) == (0.25, 0.25, "x")
    assert first.member("c").one_of("x", "y") == "x"
    assert inside["c"].where == "a[0].c"
    assert second.flag() is True
    assert third.integer(3) == 3
    assert third.number() == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: field(3).fields("b", "c"), "f.json: a must be an object with the fields b, c; got 3."),
        (lambda: field({"b": 1, "mgnitude": 2}).fields("b", "magnitude"), "unknown field 'mgnitude'. Did you mean"),
        (lambda: field({"c": 1}).fields("b", "c"), "f.json: a lacks the field 'b'. Add it"),
        (lambda: field({"c": 1}).member("b"), "f.json: a lacks the field 'b'"),
        (lambda: field(3).member("b"), "f.json: a must be an object"),
        (lambda: field({}).items(), "a must be a non-empty list; got {}"),
        (lambda: field([]).items(), "a must be a non-empty list, not of 0; got []"),
        (lambda: field([1]).items(2), "a must be a list of 2, not of 1; got [1]"),
        (lambda: field("1").number(), "a must be a number; got '1'"),
        (lambda: field(True).number(), "a must be a number; got True"),
        (lambda: field(None).number(), "a must be a number; got None"),
        (lambda: field(float("inf")).number(), "a must be a finite number; got inf"),
        (lambda: field(10**400).number(), "a must be a finite number; got 1000"),
        (lambda: field(1.5).number(0, 1), "a must be a number in [0, 1]; got 1.5"),
        (lambda: field(0).positive(), "a must be a positive number; got 0"),
        (lambda: field(0).integer(1), "a must be an integer of at least 1; got 0"),
        (lambda: field(1.0).integer(1), "a must be an integer of at least 1; got 1.0"),
        (lambda: field(True).integer(1), "a must be an integer of at least 1; got True"),
        (lambda: field(1).text(), "a must be a string; got 1"),
        (lambda: field(["x"]).one_of("x", "y"), "a must be 'x' or 'y'; got ['x']"),
        (lambda: field(1).flag(), "a must be true or false; got 1"),
        (lambda: field("x" * 200).number(), f"a must be a number; got '{'x' * 76}...."),
    ],
)
def test_fields_that_are_wrong(call, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        call()
