"""A run's folder: what was asked for, what was measured, the policies, and the network it ends with.

::

    config.json            the configuration, complete
    environment.json       hardware, versions, the command
    metrics.jsonl          one line an update of the policy and one an epoch, appended as they happen
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
from hypergrad.files import Field, parse_json, read_bytes, read_json, write_atomically
from hypergrad.messages import warn
from hypergrad.optional import require
from hypergrad.vision.run_checks import check_environment, check_epoch, check_result, check_update

#: Of the files' layout.
SCHEMA = 1
_EPOCH = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class RunDirectory:
    """A folder that one run writes to.

    Attributes:
        path: of the folder.
    """

    path: Path

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

    def position(self) -> dict[str, int]:
        """Bytes and lines of the metrics so far, which are on the disk when this returns."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return {"bytes": 0, "lines": 0}
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            content = file.read()
        return {"bytes": len(content), "lines": content.count(b"\n")}

    def rewind(self, position: dict[str, int], epochs: int) -> None:
        """Cut off what was recorded after a :meth:`position`: lines of the metrics, and policies of later epochs.

        A file that has become shorter than that is left with its whole lines, and a warning.
        """
        path, length = self.path / "metrics.jsonl", position["bytes"]
        if path.exists():
            with path.open("rb+") as file:
                content = file.read(length)
                if len(content) < length:
                    length = content.rfind(b"\n") + 1
                file.truncate(length)
                os.fsync(file.fileno())
        if (length if path.exists() else 0) < position["bytes"]:
            warn(
                f"{path} has lost lines that were written before the checkpoint: it should have {position['lines']}. "
                "The training goes on; what is missing is missing in the curves, and nowhere else.",
                HypergradWarning,
            )
        for policy in (self.path / "policies").glob("*.json"):
            if policy.stem.isdecimal() and int(policy.stem) > epochs:
                with contextlib.suppress(OSError):
                    policy.unlink()

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to the metrics; the number NaN or an infinity becomes null."""
        text = json.dumps(_finite(line), allow_nan=False)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

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
        """The final numbers."""
        self._write("result.json", {"schema": SCHEMA, **result})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Recorded:
    """What a run has left so far.

    Attributes:
        path: its folder.
        config, environment: as they were at the start.
        epochs: the metrics of each pass.
        updates: the records of the policy's updates.
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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


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
