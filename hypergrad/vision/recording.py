"""A training run with its folder: everything that can be wrong is found before the folder is made."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from hypergrad.checkpoint.identity import differences
from hypergrad.distributed import alone, barrier, from_first, is_writer
from hypergrad.errors import InvalidInputError
from hypergrad.files import held, read_json
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.data.base import Dataset
from hypergrad.vision.events import Events
from hypergrad.vision.finished import finished_result
from hypergrad.vision.outcome import Epoch, TrainResult
from hypergrad.vision.predict import Description
from hypergrad.vision.resuming import FOLDER, OtherRunError, Resume, Saver
from hypergrad.vision.run import GoingOn, RunDirectory
from hypergrad.vision.run_identity import relevant
from hypergrad.vision.samples import draw_samples, save_samples
from hypergrad.vision.training import train

#: What the first rank tells the others about the folder.
_FINISHED, _UNFINISHED = "finished", "unfinished"


def train_and_record(
    config: TrainConfig,
    output: str | Path,
    *,
    dataset: Dataset | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    resume: Resume = "never",
    checkpoint_minutes: float = 5.0,
    keep_checkpoints: bool = False,
) -> TrainResult:
    """Train, and leave a run's folder (see :mod:`hypergrad.vision.run`).

    Where ``torch.distributed`` runs, all ranks call this; the first one writes, calls ``on_epoch`` and says which
    folder, and all must see it to go on from a checkpoint.

    Args:
        config: of the run.
        output: the folder, new or empty, or with ``resume`` that of the run.
        dataset: in place of the one that the configuration names.
        progress: show progress on stderr.
        tensorboard: write event files for TensorBoard into the folder as well.
        on_epoch: called after each pass; what it raises ends the run, whose folder then holds what came before.
        resume: "auto" goes on from the newest checkpoint where the folder is that of this run, bit for bit, begins
            anew there if there is none, and returns at once what a finished run had; "force" also where settings,
            data or code have changed.
        checkpoint_minutes: age at which a checkpoint is replaced within an epoch; 0 makes one after each step. At the
            ends of epochs they are made more often, see :mod:`hypergrad.vision.resuming`.
        keep_checkpoints: of the finished run, too.

    Raises:
        MissingLibraryError: TensorBoard was asked for and is not installed.
        InvalidInputError: the folder is not empty, or :func:`~hypergrad.vision.training.train` refuses the
            configuration; nothing is written then. Or another process is at this run.
        OtherRunError: the folder is that of another run; the message says what differs. Nothing is changed then.
        Stopped: SIGINT or SIGTERM came, and a checkpoint was made if there is one; a ``KeyboardInterrupt``.
    """
    output, started = Path(from_first(str(output))), time.perf_counter()
    saver = Saver(output, minutes=checkpoint_minutes, resume=resume)
    if not is_writer():
        return _follow(config, output, saver, dataset)
    here = output.exists() and (not output.is_dir() or any(output.iterdir()))
    with contextlib.ExitStack() as stack:
        if here:
            _check_folder(output, resume)
            (output / FOLDER).mkdir(exist_ok=True)
            stack.enter_context(held(output / FOLDER))
            _check_config(output, config, resume)
            if (output / "result.json").is_file():
                from_first(_FINISHED)
                with alone():
                    result = finished_result(config, output, dataset)
                if not keep_checkpoints:
                    saver.remove()
                return result
        from_first(_UNFINISHED)
        directory: list[RunDirectory] = []
        events: list[Events] = []
        events_there = resume != "never" and (output / "tensorboard").is_dir()
        if tensorboard or events_there:
            events.append(Events(output / "tensorboard"))  # before anything is written: is the library there?

        def create() -> RunDirectory:
            content = config.model_dump(mode="json")
            if saver.loaded is not None:
                run = RunDirectory(output)
                run.resumed(content, saver.loaded.step)
            else:
                run = RunDirectory.create(output, content, again=here)
            if not here:
                (output / FOLDER).mkdir()
                stack.enter_context(held(output / FOLDER))
            if events_there:
                done = 0 if saver.loaded is None else len(saver.loaded.state["history"])
                events[0] = Events(output / "tensorboard", after=done)
            directory.append(run)
            return run

        def tell(epoch: Epoch) -> None:
            for writer in events:
                with GoingOn(f"TensorBoard's events of epoch {epoch.epoch} could not be written"):
                    writer.add(epoch)
            if on_epoch is not None:
                on_epoch(epoch)

        try:
            result = train(config, run=create, saver=saver, dataset=dataset, progress=progress, on_epoch=tell)
        finally:
            for writer in events:
                with GoingOn("TensorBoard's events could not be closed"):
                    writer.close()
        earlier = 0.0 if saver.loaded is None else saver.loaded.state["wall"]
        with alone():
            _finish(directory[0], result, earlier + time.perf_counter() - started)
        barrier()
        if not keep_checkpoints:
            saver.remove()
    return result


def _follow(config: TrainConfig, output: Path, saver: Saver, dataset: Dataset | None) -> TrainResult:
    """What a rank does that writes nothing: the same, when the first one has looked at the folder."""
    if from_first("") == _FINISHED:
        with alone():
            return finished_result(config, output, dataset)
    result = train(config, saver=saver, dataset=dataset, progress=False)
    barrier()  # when it returns, the files are there
    return result


def _check_folder(output: Path, resume: Resume) -> None:
    """Refuse a folder that is no run's, or that must be empty."""
    there = f"{output} exists and is not an empty folder."
    is_run = output.is_dir() and (output / "config.json").is_file()
    if resume == "never":
        more = " To go on with the run in it: --resume." if is_run else ""
        raise InvalidInputError(f"{there} Name another --output, or remove it.{more}")
    # A run that is ended while its folder is made leaves no more than this.
    begun = output.is_dir() and all(p.name in ("policies", FOLDER) or p.name.startswith(".") for p in output.iterdir())
    if not is_run and not begun:
        raise InvalidInputError(f"{there} It is no run of hypergrad either (no config.json). Name another --output.")


def _check_config(output: Path, config: TrainConfig, resume: Resume) -> None:
    """Refuse a folder with other settings, before any data are read."""
    file = output / "config.json"
    if resume == "force" or not file.is_file():
        return
    try:
        before = TrainConfig.model_validate(read_json(file).value)
    except ValidationError as error:
        raise OtherRunError(
            f"{file} has settings that this hypergrad does not know ({error.error_count()} of them): it is a run of "
            "another version, or damaged. Name another --output."
        ) from error
    different = differences(relevant(before), relevant(config))
    if different:
        raise OtherRunError(
            f"{output} holds another run: {'; '.join(different)}. Leave these settings as they were, name another "
            "--output, or force it, knowing that the result will not be that of an uninterrupted run."
        )


def _finish(run: RunDirectory, result: TrainResult, wall: float) -> None:
    """Everything that is known at the end; ``result.json`` last."""
    if result.policy is not None:
        run.save_policy(result.policy)
    run.save_model(result.model, asdict(describe(result)))
    save_samples(draw_samples(result), run.path)
    run.finish(
        {
            "method": result.config.method.name,
            "val": result.val.row(),
            "test": None if result.test is None else result.test.row(),
            "confusion": None if result.test is None else result.test.confusion,
            "val_confusion": result.val.confusion if result.test is None else None,
            "classes": list(result.splits.classes),
            "images": {
                "train": len(result.splits.train),
                "val": len(result.splits.val),
                "test": 0 if result.splits.test is None else len(result.splits.test),
            },
            "epochs": len(result.history),
            "steps": result.history[-1].step,
            "updates": result.history[-1].updates,
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,
            "search_seconds": result.search_seconds,
            "passes": result.passes,
            "search_passes": result.search_passes,
            "search_notes": result.search_notes,
            "weights": result.weights,
            "wall_seconds": wall,
        }
    )


def describe(result: TrainResult) -> Description:
    """What the network's inputs and outputs are."""
    data, splits = result.config.data, result.splits
    return Description(
        name=result.config.model.name,
        options=dict(result.config.model.options),
        classes=splits.classes,
        channels=splits.channels,
        side=splits.original_side,
        pad_to=data.pad_to,
        crop=result.config.standard.resized_crop,
        mean=splits.mean,
        std=splits.std,
    )
