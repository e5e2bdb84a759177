"""Every reader on malformed files: a clear error, and nothing harmed. ``benchmarks/fuzz.py`` runs more of them."""

import pickle
import random
from pathlib import Path

import fuzz
import hypothesis.strategies as st
import pytest
from _fuzz_mutations import Canary, hostile
from _fuzz_readers import Reader, make_readers
from _fuzz_trial import try_one
from hypothesis import HealthCheck, given, settings

from hypergrad.files import parse_json

INPUTS = 500


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> list[Reader]:
    return [r for r in make_readers(tmp_path_factory.mktemp("valid")) if r.name != "report of a run"]  # seconds each


def test_valid_files_are_read(readers: list[Reader]) -> None:
    for reader in readers:
        reader.read(reader.folder)


def test_500_malformed_inputs(readers: list[Reader], capsys: pytest.CaptureFixture[str]) -> None:
    trials = fuzz.fuzz(readers, INPUTS, seed=0)
    status = fuzz.tell(readers, trials, show=False)
    told = capsys.readouterr().out
    assert status == 0 and f"{INPUTS} malformed inputs, {INPUTS} clear errors" in told, told
    assert {t.reader for t in trials if t.outcome == "refused"} == {r.name for r in readers}


@given(st.integers(0, 2**32), st.data())
@settings(derandomize=True, deadline=None, database=None, max_examples=100)
def test_whatever_hypothesis_thinks_of(readers: list[Reader], seed: int, data: st.DataObject) -> None:
    reader = data.draw(st.sampled_from(readers))
    trial = try_one(reader, random.Random(seed))
    assert trial.outcome in ("refused", "valid"), f"{trial.reader}, {trial.mutation}: {trial.detail}"


@given(st.binary(max_size=300))
@settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_any_small_file(readers: list[Reader], tmp_path: Path, content: bytes) -> None:
    class Same(random.Random):
        def randbytes(self, n: int) -> bytes:
            return content

        def choice(self, options):
            names = [getattr(o, "__name__", "") for o in options]
            return options[names.index("at_random")] if "at_random" in names else super().choice(options)

    rng = Same(len(content))
    trial = try_one(rng.choice(readers), rng)
    assert trial.outcome in ("refused", "valid"), f"{trial.reader}, {trial.mutation}: {trial.detail}"


def bad_reader(folder: Path, read) -> Reader:
    (folder / "file.json").write_text('{"a": 1}')
    return Reader("bad", folder, ("file.json",), read)


@pytest.mark.parametrize(
    ("read", "detail"),
    [
        (lambda path: 1 / 0, "ZeroDivisionError"),
        (lambda path: (path / "file.json").unlink(), "a file was changed"),
        (lambda path: (path / "new").write_text(""), "a file was changed"),
        (lambda path: (path.parent / "canary").write_text(""), "code of the file ran"),
        (lambda path: parse_json(b"x", "something"), "unclear"),
    ],
)
def test_the_fuzzer_sees_faults(tmp_path: Path, read, detail: str) -> None:
    trial = try_one(bad_reader(tmp_path, read), random.Random(0))
    assert trial.outcome == "wrong" and detail in trial.detail


def test_the_payload_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(str(tmp_path / "canary")))).close()
    assert (tmp_path / "canary").exists()
    assert b"canary" in hostile("canary")(random.Random(0), b"x" * 10)
