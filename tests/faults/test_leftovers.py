"""What a kill leaves of a file that was being written goes when the run goes on, and nothing else does."""

from pathlib import Path

import pytest

from hypergrad.files import TEMPORARY, write_atomically
from hypergrad.vision.run import RunDirectory


def test_unfinished_files_go_with_a_rewind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    kept = {run.path / ".mine", run.path / "config.json", run.path / "policies" / ".mine.tmp"}
    for path in kept:
        path.touch()

    with monkeypatch.context() as patch:  # a kill runs no handler that would tidy up
        patch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)
        for folder in (run.path, run.path / "policies"):
            with pytest.raises(KeyboardInterrupt):
                write_atomically(folder / "file.json", "half")
    assert len([*run.path.rglob(TEMPORARY)]) == 2
    run.rewind({"bytes": 0, "lines": 0}, 0)
    assert not [*run.path.rglob(TEMPORARY)] and all(path.exists() for path in kept)
