"""A run's folder: what was asked for, what was measured, the policies, and the network it ends with.

::

    config.json            the configuration, complete
    environment.json       hardware, versions, the command
    metrics.jsonl          one line an update of the policy and one an epoch, appended as they happen; and one a failure
    failures/inner-000012.json   a step that was not finite: where, why, and its settings
    policies/0012.json     the policy after each epoch (MADAO)
    policy.json            the policy at the end
    model.safetensors      the network at the end
    model.json             how to build it again, and what its inputs and outputs are
    samples.safetensors    a few training images, and test images that the network got wrong
    result.json            the final numbers; its presence says that the run is finished
    checkpoints/           what an interrupted run goes on from (until it is finished); `lock`: its process
"""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hypergrad.version
from hypergrad.augment import FixedPolicy, Policy
from hypergrad.distributed import world_size
from hypergrad.errors import HypergradWarning, InvalidInputError
from hypergrad.failures import Failure
from hypergrad.files import TEMPORARY, Field, parse_json, read_bytes, read_json, write_atomically
from hypergrad.messages import warn
from hypergrad.optional import require
from hypergrad.vision.metrics import Metrics, finite
from hypergrad.vision.run_checks import check_environment, check_epoch, check_result, check_update

#: Of the files' layout.
SCHEMA = 1
_EPOCH = re.compile(r"[0-9]{1,9}")


class GoingOn:
    """Within, what records a training may fail in any way, with a warning; the training goes on.

    A class, and no generator, so that the warning points at the user's line and not into contextlib.

    Args:
        what: happened, in words.

    Warns:
        HypergradWarning: something was raised.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Warn, and swallow what is no signal."""
        if not isinstance(error, Exception):
            return False
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        warn(f"{self._what} ({reason}). The training goes on without it.", HypergradWarning)
        return True


@dataclass(frozen=True)
class RunDirectory:
    """A folder that one run writes to.

    Attributes:
        path: of the folder.
        metrics: its file of metrics.
    """

    path: Path
    metrics: Metrics = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", Metrics(self.path / "metrics.jsonl"))

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], *, again: bool = False) -> "RunDirectory":
        """A new folder with the configuration and the environment in it.

        Args:
            path: of the folder.
            config: of the run.
            again: begin anew in the folder of a run that is not finished: its metrics and policies go.

        Raises:
            InvalidInputError: the folder exists and is not empty, or cannot be made.
        """
        path = Path(path)
        if not again and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InvalidInputError(f"{path} exists and is not an empty folder. Name another --output, or remove it.")
        try:
            (path / "policies").mkdir(parents=True, exist_ok=again)
        except OSError as error:
            raise InvalidInputError(f"{path} cannot be made ({error.strerror}). Name another --output.") from error
        run = cls(path)
        run.rewind({"bytes": 0, "lines": 0}, 0)
        run._write("config.json", config)
        run._write("environment.json", environment())
        return run

    def resumed(self, config: dict[str, Any], step: int) -> None:
        """Note in ``environment.json`` that the run goes on here and now, after ``step`` inner steps.

        Args:
            config: of the run; another one only where it was forced.
            step: that it goes on from.
        """
        before = _read(self.path / "environment.json")
        self._write("config.json", config)
        again = [*before.pop("resumed", []), {**environment(), "step": step}]
        self._write("environment.json", {**before, "resumed": again})

    def position(self) -> dict[str, Any]:
        """How far the metrics are, see :meth:`hypergrad.vision.metrics.Metrics.position`."""
        return self.metrics.position()

    def rewind(self, position: dict[str, Any], epochs: int) -> None:
        """Cut off what was recorded after a :meth:`position`: lines of the metrics, and policies of later epochs.

        What a kill left of files that were being written goes, too.
        """
        self.metrics.rewind(position)
        for rubbish in self.path.rglob(TEMPORARY):
            with contextlib.suppress(OSError):
                rubbish.unlink()
        for policy in (self.path / "policies").glob("*.json"):
            if policy.stem.isdecimal() and int(policy.stem) > epochs:
                with contextlib.suppress(OSError):
                    policy.unlink()

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to the metrics, now or when the disk takes it."""
        self.metrics.append(line)

    def save_failure(self, failure: Failure, settings: dict[str, Any]) -> None:
        """A step that was not finite, with the settings that it had: a line of the metrics, and a file.

        Warns:
            HypergradWarning: the file could not be written.
        """
        self.append({"kind": "failure", **failure.row()})
        path = self.path / "failures" / f"{failure.level}-{failure.step:06d}.json"
        content = {"schema": SCHEMA, "failure": failure.row(), "said": str(failure), "settings": settings}
        with GoingOn(f"{path} could not be written"):
            path.parent.mkdir(exist_ok=True)
            self._write(f"failures/{path.name}", content)

    def save_policy(self, policy: Policy | FixedPolicy, epoch: int | None = None) -> None:
        """The policy after an epoch, or the final one."""
        policy.save(self.path / "policy.json" if epoch is None else self.path / "policies" / f"{epoch:04d}.json")

    def save_model(self, network: nn.Module, description: dict[str, Any]) -> None:
        """The network's tensors, and what is needed to build and to use it."""
        safetensors = require("safetensors.torch", "Saving a network", "vision")
        state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        write_atomically(self.path / "model.safetensors", safetensors.save(state))
        self._write("model.json", {"schema": SCHEMA, **description})

    def finish(self, result: dict[str, Any]) -> None:
        """The final numbers, after the metrics that could not be written before.

        Raises:
            OSError: the disk does not take them now either.
        """
        self.metrics.write()
        self._write("result.json", {"schema": SCHEMA, **result})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Recorded:
    """What a run has left so far.

    Attributes:
        path: its folder.
        config, environment: as they were at the start.
        epochs: the metrics of each pass.
        updates: the records of the policy's updates.
        failures: steps that were not finite, as rows of :class:`hypergrad.failures.Failure`.
        result: the final numbers; None while it runs, or when it was stopped.
        policies: epoch and policy, in order.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    epochs: list[dict[str, Any]] = field(repr=False)
    updates: list[dict[str, Any]] = field(repr=False)
    result: dict[str, Any] | None
    policies: list[tuple[int, Policy]] = field(repr=False)
    failures: list[dict[str, Any]] = field(default_factory=list, repr=False)


def read_run(path: str | Path) -> Recorded:
    """Read a run's folder; a line of the metrics that was cut short at the end is left out.

    Raises:
        InvalidInputError: no run, or a file of it is broken.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise InvalidInputError(f"{path} is no run of hypergrad: it has no config.json. Give the --output of a run.")
    lines = _lines(path / "metrics.jsonl")
    surroundings = _read(path / "environment.json")
    check_environment(Field(str(path / "environment.json"), "", surroundings))
    result = _read(path / "result.json") if (path / "result.json").is_file() else None
    if result is not None:
        check_result(Field(str(path / "result.json"), "", result))
    return Recorded(
        path=path,
        config=_read(path / "config.json"),
        environment=surroundings,
        epochs=[line for line in lines if line.get("kind") == "epoch"],
        updates=[line for line in lines if line.get("kind") == "update"],
        result=result,
        policies=sorted(
            ((int(p.stem), Policy.load(p)) for p in (path / "policies").glob("*.json") if _EPOCH.fullmatch(p.stem)),
            key=lambda entry: entry[0],
        ),
        failures=[line for line in lines if line.get("kind") == "failure"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path).value
    except InvalidInputError as error:
        raise InvalidInputError(f"{path} cannot be read ({error}) The run's folder is incomplete.") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path} holds no JSON object. The run's folder is damaged.")
    return content


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = []
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}). Check it.") from error
    for number, line in enumerate(lines, 1):
        content: Any = line
        with contextlib.suppress(InvalidInputError):
            content = parse_json(line, str(path)) if line else None
        if isinstance(content, dict):
            check = check_epoch if content.get("kind") == "epoch" else check_update
            check(Field(f"{path}, line {number}", "", content))
            found.append(content)
        elif content is not None and number < len(lines):  # the last one has no line end: it was being written
            shown = line[:60].decode("utf-8", "replace")
            raise InvalidInputError(f"{path}, line {number} is no JSON object: {shown!r}. Remove the line.")
    return found


def environment() -> dict[str, Any]:
    """Hardware, versions, the commit of a source checkout, and the command that was given."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "hypergrad": hypergrad.version.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": world_size(),
        "gpu": gpu,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arguments": sys.argv[1:],
    }


def _commit() -> str | None:
    """Of the checkout that this package is run from, with a note of changes; None for an installed package."""
    root = Path(hypergrad.version.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        answers = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", "hypergrad"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0].stdout.strip() + ("+changes" if answers[1].stdout.strip() else "")


def _processor() -> str | None:
    """Its model's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
