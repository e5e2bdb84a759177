"""``hypergrad train``."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hypergrad.cli.layers import Layer, Options, environment_layer, file_layer, merged
from hypergrad.cli.parsing import Parser
from hypergrad.cli.ranks import computing
from hypergrad.cli.refusals import validated
from hypergrad.cli.statuses import DONE, INTERRUPTED, STOPPED
from hypergrad.distributed import from_first, is_writer, world_size
from hypergrad.errors import HypergradError, InvalidInputError, NonFiniteError
from hypergrad.vision.config import RECIPES, TrainConfig, recipe
from hypergrad.vision.figures import draw_run
from hypergrad.vision.recording import train_and_record
from hypergrad.vision.resuming import OtherRunError, has_checkpoint
from hypergrad.vision.run import read_run
from hypergrad.vision.training import TrainResult

#: Images that show what the final policy does.
_SAMPLES = 6
_USAGE = """hypergrad train [--recipe NAME] [--data NAME] [--method NAME] [--output DIR] [SETTING ...]
       hypergrad train --resume DIR
       hypergrad train --output DIR --resume [SETTING ...]"""

#: Of --resume without a value.
_HERE = Path()

_EPILOG = """\
Settings are taken from the recipe, then the file, then the environment, then the options; the later one wins. Where a
later one names another method, model or data set, the earlier ones' other settings of that section are dropped.
In the environment --data.image-size is HYPERGRAD_DATA__IMAGE_SIZE. `null` stands for none.

recipes: {recipes}

examples:
  hypergrad train --recipe cpu                                  a first run
  hypergrad train --recipe cpu --method randaugment             the same network under RandAugment
  hypergrad train --data folder --data.root photos --data.image-size 64 --epochs 40
  hypergrad train --recipe paper-cifar10 --data.root ~/data/cifar --device cuda
  hypergrad train --config runs/first/config.json --seed 1      a run again, with another seed
  hypergrad train --recipe cpu --method.solver cg --method.solver-options max_steps=5,tol=0.01 --print-config
  hypergrad train --resume runs/first                           go on with an interrupted run, bit for bit
  hypergrad train --recipe cpu --output runs/first --resume     begin, or go on: one command for a job scheduler
"""


def training_parser() -> tuple[Parser, Options]:
    """The parser of ``train``, and the part of it that holds the settings."""
    parser = Parser(
        "hypergrad train",
        usage=_USAGE,
        description="Train a network on images, by one method, and leave a folder with everything that was measured.",
        epilog=_EPILOG.format(recipes=", ".join(RECIPES)),
    )
    own = parser.add_argument_group("this run")
    own.add_argument("--config", type=Path, metavar="FILE", help="settings, JSON or TOML (a run's config.json is one)")
    own.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run, new or empty (default: runs/DATA-METHOD-TIME)"
    )
    own.add_argument(
        "--resume",
        type=Path,
        nargs="?",
        const=_HERE,
        metavar="DIR",
        help="go on with the run in DIR by its own settings; without DIR: with that in --output, or begin it",
    )
    own.add_argument("--force", action="store_true", help="resume although settings, data or code have changed")
    own.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=5.0,
        metavar="M",
        help="age at which a checkpoint is replaced within an epoch; 0: after each step (default: 5)",
    )
    own.add_argument("--keep-checkpoints", action="store_true", help="keep them when the run is finished")
    own.add_argument("--print-config", action="store_true", help="print all settings as JSON, and stop")
    own.add_argument("--quiet", action="store_true", help="no progress; print the run's folder only")
    own.add_argument("--tensorboard", action="store_true", help="write event files for TensorBoard, too")
    own.add_argument("--no-pictures", action="store_true", help="do not draw learning curves and policy")
    return parser, Options(parser)


def read_settings(parsed: argparse.Namespace, options: Options) -> TrainConfig:
    """The configuration from all its sources.

    Raises:
        InvalidInputError: a setting that cannot be; the message says which, and from where.
    """
    layers = [environment_layer(), options.layer(parsed)]
    if parsed.config is not None:
        layers.insert(0, file_layer(parsed.config))
    named = [layer.values["recipe"] for layer in layers if layer.values.get("recipe") is not None]
    if named:
        layers.insert(0, Layer(f"the recipe {named[-1]}", recipe(named[-1])))
    return validated(merged(layers), layers)


def train_command(arguments: Sequence[str]) -> int:
    """Train; the exit status. Ranks that torchrun has started train together, and the first one writes."""
    parser, options = training_parser()
    parsed = parser.parse_args(arguments)
    _check(parsed)
    resumed: Path | None = None if parsed.resume == _HERE else parsed.resume
    config = read_settings(parsed, options) if resumed is None else _settings_of(resumed, parsed, options)
    if parsed.print_config:
        print(json.dumps(config.model_dump(mode="json"), indent=2))
        return DONE
    with computing(config.device):
        return _train(config, parsed, resumed)


def _train(config: TrainConfig, parsed: argparse.Namespace, resumed: Path | None) -> int:
    """The run itself, on every rank."""
    # Each rank has another second in the name.
    output = Path(from_first(str(resumed or parsed.output or _new_folder(config))))
    if is_writer() and parsed.resume is not None and not parsed.quiet:
        print(f"hypergrad: {_before(output)}", file=sys.stderr)
    try:
        result = train_and_record(
            config,
            output,
            progress=not parsed.quiet,
            tensorboard=parsed.tensorboard,
            resume="force" if parsed.force else "auto" if parsed.resume is not None else "never",
            checkpoint_minutes=parsed.checkpoint_minutes,
            keep_checkpoints=parsed.keep_checkpoints,
        )
    except OtherRunError as error:
        raise InvalidInputError(f"{error}\nOn the command line, --force forces it.") from error
    except NonFiniteError:
        if is_writer():
            print(f"hypergrad: {_left(output)}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        if is_writer():
            print(f"hypergrad: interrupted; {_left(output)}", file=sys.stderr)
        return STOPPED if has_checkpoint(output) else INTERRUPTED
    if not is_writer():
        return DONE
    pictures = [] if parsed.no_pictures else _pictures(result, output)
    if parsed.quiet:
        print(output)
    else:
        _report(result, output, pictures)
    return DONE


def _new_folder(config: TrainConfig) -> Path:
    return Path("runs") / f"{config.data.name}-{config.method.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _check(parsed: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if parsed.resume is None and parsed.force:
        raise InvalidInputError(
            "--force is for resuming. Give --resume DIR, or --output DIR --resume, or leave it out."
        )
    if parsed.resume == _HERE and parsed.output is None:
        raise InvalidInputError("--resume needs to know the run: --resume DIR, or --output DIR --resume.")
    if parsed.resume not in (None, _HERE):
        if parsed.output is not None and parsed.output.absolute() != parsed.resume.absolute():
            raise InvalidInputError(f"--output {parsed.output}: a resumed run stays in its folder. Leave it out.")
        if not (parsed.resume / "config.json").is_file():
            raise InvalidInputError(
                f"{parsed.resume} is no run of hypergrad: it has no config.json. Give the folder of a run."
            )


def _settings_of(folder: Path, parsed: argparse.Namespace, options: Options) -> TrainConfig:
    """The settings of the run in the folder, below those that were repeated beside it; the environment is passed over.

    Whether they are still the same run's is found when it goes on.
    """
    layers = [options.layer(parsed)]
    if parsed.config is not None:
        layers.insert(0, file_layer(parsed.config))
    named = [layer.values["recipe"] for layer in layers if layer.values.get("recipe") is not None]
    if named:
        layers.insert(0, Layer(f"the recipe {named[-1]}", recipe(named[-1])))
    layers.insert(0, file_layer(folder / "config.json"))
    return validated(merged(layers), layers)


def _before(output: Path) -> str:
    """What there is to go on from, in words."""
    if (output / "result.json").is_file():
        return f"the run in {output} is finished; there is nothing to train"
    if has_checkpoint(output):
        return f"going on with the run in {output} from its newest checkpoint"
    return f"{output} has no checkpoint: the run begins" + (" anew" if (output / "config.json").is_file() else "")


def _left(output: Path) -> str:
    """What a run that was stopped has on the disk."""
    try:
        run = read_run(output)
    except HypergradError:
        return "nothing was written"
    if run.result is not None:
        return f"{output} holds the finished run"
    count = len(run.epochs)
    epochs = f"{count} epoch{'' if count == 1 else 's'}"
    further = f"hypergrad train --resume {shlex.quote(str(output))}"
    if world_size() > 1:
        further = f"torchrun ... -m {further}"
    if has_checkpoint(output):
        return f"a checkpoint is in {output}, after {epochs}; go on with: {further}"
    return (
        f"{output} holds the settings, the metrics of {epochs} and their policies, but neither a network nor a "
        f"checkpoint; begin anew with: {further}"
    )


def _report(result: TrainResult, output: Path, pictures: list[Path]) -> None:
    print(f"validation error  {result.val.error:.2f} %  ({result.val.count} images)")
    if result.test is not None:
        print(f"test error        {result.test.error:.2f} %  ({result.test.count} images)")
    updates = result.history[-1].updates
    learned = f", {updates} updates of the policy" if updates else ""
    if result.search_seconds:
        print(f"search            {result.search_seconds:.1f} s, before the training")
    print(f"training          {result.seconds:.1f} s, {len(result.history)} epochs{learned}")
    print(f"folder            {output}")
    for picture in pictures:
        print(f"picture           {picture}")
    print(f"evaluate it       hypergrad evaluate {output}")
    print(f"use it            hypergrad predict {output} IMAGE...")
    if result.policy is not None:
        print(f"see the policy    hypergrad preview {output} --output policy.png")


def _pictures(result: TrainResult, output: Path) -> list[Path]:
    """Drawn if they can be: the run is finished, whatever happens here."""
    pixels, _ = result.splits.train.draw(torch.arange(min(_SAMPLES, len(result.splits.train))))
    try:
        return draw_run(output, pixels.float() / 255)
    except HypergradError as error:
        print(f"hypergrad: no pictures were drawn: {error}", file=sys.stderr)
        return []
