"""One attempt of a search: a point becomes a method, the method a run's folder, the run its validation error."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypergrad.augment import FixedPolicy
from hypergrad.baselines import Attempt, Pruned
from hypergrad.errors import HypergradError, NonFiniteError
from hypergrad.files import read_json
from hypergrad.interruption import graceful
from hypergrad.vision.config import SavedPolicy, TrainConfig
from hypergrad.vision.data.base import Dataset
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import FOLDER as CHECKPOINTS
from hypergrad.vision.resuming import OtherRunError
from hypergrad.vision.run import Recorded, read_run
from hypergrad.vision.searching.base import PolicySearch
from hypergrad.vision.training import Epoch

#: Folders of a search's folder: the runs, and the policies that they are trained under.
TRIALS, POLICIES = "trials", "policies"
#: The key of the note that a loss which is not finite leaves: the attempt failed, and would fail again.
BROKE_DOWN = "broke_down"


def run_folder(number: int) -> str:
    """The folder of an attempt's run, relative to the search's."""
    return f"{TRIALS}/{number:04d}"


@dataclass(frozen=True)
class TrainingObjective:
    """Trains by the method that a point stands for, and returns the final validation error in percent.

    All attempts have the configuration's seed: the same initial weights, images and order, so that they differ by the
    method alone. The run's test error is noted, and decides nothing. An attempt whose folder holds a finished run of
    exactly its configuration already (its process ended between the training and the ledger) takes that, and one
    that holds an unfinished run of it is gone on with from its newest checkpoint.

    Args:
        config: what all share; its method is replaced.
        search: what a point stands for.
        folder: of the search, absolute.
        dataset: in place of the one that the configuration names.
    """

    config: TrainConfig
    search: PolicySearch
    folder: Path
    dataset: Dataset | None = field(default=None, repr=False)

    def __call__(self, params: Mapping[str, Any], attempt: Attempt) -> float:
        """The validation error.

        Raises:
            Pruned: the attempt is given up; its folder stays.
            NonFiniteError: the loss is not finite any more; its folder stays.
            HypergradError, OSError: as :func:`~hypergrad.vision.recording.train_and_record`.
        """
        name = run_folder(attempt.number)
        path, config = self.folder / name, self._configured(params, attempt.number)
        attempt.note("run", name)
        run = self._finished(path, config)
        if run is None:
            try:
                self._train(config, path, attempt)
            except Pruned:
                shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)  # it is decided, and never gone on with
                raise
            except NonFiniteError as error:
                attempt.note(BROKE_DOWN, str(error))
                raise
            run = read_run(path)
        assert run.result is not None
        for key, value in measured(run.result).items():
            attempt.note(key, value)
        return float(run.result["val"]["error"])

    def _train(self, config: TrainConfig, path: Path, attempt: Attempt) -> None:
        """Go on from the newest checkpoint, if an attempt that was stopped left one of this run; else begin."""
        told: list[int] = []

        def tell(epoch: Epoch) -> None:
            # Of an attempt that goes on, the study has a new trial, which knows nothing of the epochs before.
            earlier = [e for e in read_run(path).epochs if e["epoch"] < epoch.epoch] if not told else []
            for held in earlier:
                if held.get("val_error") is not None:
                    attempt.report(held["epoch"], held["val_error"])
            told.append(epoch.epoch)
            attempt.report(epoch.epoch, epoch.val_error)

        if not self._is_same(path, config):
            make_room(path)
        with graceful():  # a signal leaves a checkpoint
            try:
                train_and_record(config, path, dataset=self.dataset, progress=False, on_epoch=tell, resume="auto")
            except OtherRunError:  # of other code, or damaged
                make_room(path)
                train_and_record(config, path, dataset=self.dataset, progress=False, on_epoch=tell, resume="auto")

    def _is_same(self, path: Path, config: TrainConfig) -> bool:
        """Whether the folder holds what an unfinished run of this configuration left."""
        if (path / "result.json").exists():  # and :meth:`_finished` did not take it
            return False
        try:
            return TrainConfig.model_validate(read_json(path / "config.json").value) == config
        except ValueError:
            return False

    def _configured(self, params: Mapping[str, Any], number: int) -> TrainConfig:
        method = self.search.method(params)
        if isinstance(method, FixedPolicy):
            file = self.folder / POLICIES / f"{number:04d}.json"
            file.parent.mkdir(exist_ok=True)
            method.save(file)
            method = SavedPolicy(path=file)
        return self.config.model_copy(update={"method": method})

    def _finished(self, path: Path, config: TrainConfig) -> Recorded | None:
        """The run in the folder, where it is this one and at its end."""
        try:
            run = read_run(path)
            held = TrainConfig.model_validate(run.config)
        except (HypergradError, ValueError):
            return None
        if run.result is None or held != config:
            return None
        if isinstance(config.method, SavedPolicy):
            # The file of the policy is written before each attempt; the run keeps the one it was trained under.
            own = path / "policy.json"
            if not own.is_file() or own.read_bytes() != config.method.path.read_bytes():
                return None
        return run


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth knowing of a finished run beside its validation error: cost, and the test error in percent."""
    return {
        "training_seconds": result["seconds"] + result["search_seconds"],
        "passes": result["passes"] + result["search_passes"],
        "test_error": None if result["test"] is None else result["test"]["error"],
    }


def make_room(path: Path) -> None:
    """Move what an attempt that did not end left there out of the way; nothing is deleted."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    number = 1
    while (aside := path.with_name(f"{path.name}~{number}")).exists():
        number += 1
    path.rename(aside)
