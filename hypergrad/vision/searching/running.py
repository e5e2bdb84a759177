"""Searches over whole trainings, each with its folder: begun, continued and finished.

::

    search.json            what was asked for
    journal.log            the attempts' ledger, unless another storage was named
    policies/0007.json     the policy that attempt 7 trained under, where the search proposes policies
    trials/0007/           its run (see hypergrad.vision.run); 0007~1 is what an attempt that was stopped left
    recorded.json          runs that were recorded beside the attempts, if any
    result.json            attempts and cost; its presence says that the search is finished
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypergrad import baselines
from hypergrad.baselines import SearchResult
from hypergrad.errors import InvalidInputError
from hypergrad.files import Pathlike
from hypergrad.keys import derive
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset
from hypergrad.vision.run import RunDirectory, read_run
from hypergrad.vision.searching.attempt_run import TRIALS, TrainingObjective
from hypergrad.vision.searching.plan import FILE, Plan, read_plan
from hypergrad.vision.searching.planning import budgeted, check_same, larger, planned
from hypergrad.vision.searching.recorded_runs import check_comparable, is_recorded, record_run
from hypergrad.vision.searching.searched import (
    RESULT,
    Searched,
    is_decided,
    read_searched,
    records,
    write_result,
)
from hypergrad.vision.searching.watching import Watched
from hypergrad.vision.splits import make_splits
from hypergrad.vision.training import train

#: Times that a training is tried again.
RETRIES = 2


def search_and_record(
    config: TrainConfig,
    name: str,
    output: Pathlike,
    *,
    options: Mapping[str, Any] | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    seed: int | None = None,
    workers: int = 1,
    retries: int = RETRIES,
    storage: str | None = None,
    pruning: bool = False,
    resume: bool = False,
    with_run: Pathlike | None = None,
    dataset: Dataset | None = None,
    progress: bool = True,
) -> Searched:
    """Search for the augmentation by training with several, and leave a folder with all of it.

    All trainings have the configuration's seed: the same initial weights, split and order of images, so that they
    differ by the augmentation alone. They are compared by their final validation error. A training whose loss is not
    finite any more is a failed attempt, not the end of the search.

    Args:
        config: what the trainings share; its method is not used.
        name: of the search, one of :func:`~hypergrad.vision.searching.search_names`.
        output: the folder; new or empty, unless ``resume``.
        options: of the search.
        trials: trainings in total, over all resumes; None: the search's own number, as many as ``seconds`` allow, or
            all of a grid.
        seconds: no training starts once those before took that long together, whole attempts measured.
        seed: of what is proposed; None: the configuration's.
        workers: processes, with one torch thread each where there are several.
        retries: how often a training that failed for a reason outside of it, or whose process died on this machine, is
            tried again by this call; it goes on from its newest checkpoint.
        storage: where the ledger is: None for a journal file in the folder, or a URL (``"journal:PATH"``,
            ``"postgresql://USER@HOST/DATABASE"``, and for one worker ``"sqlite:///PATH"``).
        pruning: give up trainings that are worse than the median of the others at the same epoch.
        resume: continue what the folder holds, with exactly the attempts that are missing; a folder with no search in
            it begins one. A larger number of ``trials`` or ``seconds`` extends the search.
        with_run: a finished run that is recorded beside the attempts once they are done, see
            :func:`~hypergrad.vision.searching.record_run`; the search learns nothing from it.
        dataset: in place of the one that the configuration names.
        progress: show progress on stderr.

    Returns:
        The search; its ``result`` is None when attempts are missing because their processes were ended.

    Raises:
        UnknownNameError: no search of that name.
        InvalidInputError: an option, a budget or a storage that cannot be, a folder that is not empty, data that do not
            fit the configuration, or another search than the one that is to be continued. Nothing is written then.
        MissingLibraryError: Optuna, or what the storage needs, is not installed.
        HypergradError: every attempt failed; the message is the first one's.
    """
    folder = Path(output).absolute()
    if (folder / FILE).is_file():
        if not resume:
            raise InvalidInputError(
                f"{output} holds a search already. Continue it with resume=True (--resume {output}), or name another "
                "output."
            )
        check_same(folder, read_plan(folder), planned(config, name, options, seed, storage, pruning))
        return resume_search(
            folder,
            trials=trials,
            seconds=seconds,
            workers=workers,
            retries=retries,
            with_run=with_run,
            dataset=dataset,
            progress=progress,
        )
    plan = budgeted(planned(config, name, options, seed, storage, pruning), trials, seconds)
    _check_new(folder, output)
    plan = replace(plan, channels=_channels(plan.config, dataset))
    if with_run is not None:
        check_comparable(plan, folder, read_run(Path(with_run)))
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{output} cannot be made ({error.strerror}). Name another output.") from error
    plan.write(folder)
    try:
        return _run(plan, folder, workers, retries, with_run, dataset, progress, resume=False)
    except InvalidInputError:
        if not (folder / TRIALS).exists():  # refused before the first training: as if nothing had been asked
            (folder / FILE).unlink()
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()
        raise


def resume_search(
    path: Pathlike,
    *,
    trials: int | None = None,
    seconds: float | None = None,
    workers: int = 1,
    retries: int = RETRIES,
    with_run: Pathlike | None = None,
    dataset: Dataset | None = None,
    progress: bool = True,
) -> Searched:
    """Finish a search: exactly the attempts that are missing; nothing is done where none is.

    Args:
        path: its folder.
        trials: a larger total than before extends it; None: as before.
        seconds: likewise.
        workers, retries, with_run, dataset, progress: as for :func:`search_and_record`.

    Raises:
        InvalidInputError: no search, or a smaller budget than it has.
        MissingLibraryError, HypergradError: as for :func:`search_and_record`.
    """
    folder = Path(path).absolute()
    held = read_plan(folder)
    plan = replace(held, trials=larger("trials", held.trials, trials), seconds=larger("seconds", held.seconds, seconds))
    if with_run is not None:
        check_comparable(plan, folder, read_run(Path(with_run)))
    if (folder / RESULT).is_file():
        if plan == held:
            _record(folder, with_run)
            return read_searched(folder)
        (folder / RESULT).unlink()
    if plan != held:
        plan.write(folder)
    _channels(plan.config, dataset)
    return _run(plan, folder, workers, retries, with_run, dataset, progress, resume=True)


def _check_new(folder: Path, output: Pathlike) -> None:
    """A file that is cut off while it is written is all that a folder may hold."""
    if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".hypergrad-") for p in folder.iterdir())):
        raise InvalidInputError(f"{output} exists and is not an empty folder. Name another --output, or remove it.")


class _Accepted(Exception):
    """Nothing is left to be refused."""


def _channels(config: TrainConfig, dataset: Dataset | None) -> int:
    """Of the images; what a training would refuse is refused here, before anything is written."""

    def stop() -> RunDirectory:
        raise _Accepted

    with contextlib.suppress(_Accepted):
        train(config, run=stop, dataset=dataset, progress=False)
    return make_splits(config.data, derive(config.seed, "data"), dataset).channels


def _run(
    plan: Plan,
    folder: Path,
    workers: int,
    retries: int,
    with_run: Pathlike | None,
    dataset: Dataset | None,
    progress: bool,
    *,
    resume: bool,
) -> Searched:
    settled = plan.settled
    # Trainings take long: epochs are shown, where it is known how many there will be.
    in_epochs = progress and plan.trials is not None
    watched = Watched(folder, plan.trials or 0, plan.config.epochs, f"search {plan.name}", enabled=in_epochs)
    with watched:
        outcome = baselines.search(
            TrainingObjective(plan.config, settled, folder, dataset),
            settled.space(plan.seed),
            method=settled.proposals,
            trials=plan.trials,
            seconds=plan.seconds,
            storage=plan.url(folder),
            name=plan.study,
            seed=plan.seed,
            workers=workers,
            retries=retries,
            pruning=plan.pruning,
            resume=resume,
            progress=progress and not in_epochs,
            on_attempt=watched.ended,
        )
    if _is_finished(plan, outcome):
        write_result(folder, plan, records(folder, outcome))
        _record(folder, with_run)
    return read_searched(folder)


def _record(folder: Path, run: Pathlike | None) -> None:
    if run is not None and not is_recorded(folder, run):
        record_run(folder, run)


def _is_finished(plan: Plan, outcome: SearchResult) -> bool:
    """Whether every attempt is decided, or the time is used up."""
    decided = {attempt.number for attempt in outcome.attempts if is_decided(attempt)}
    if plan.seconds is not None and outcome.seconds >= plan.seconds:
        return True
    return len(decided) == len(outcome.attempts) and set(outcome.missing) <= decided
