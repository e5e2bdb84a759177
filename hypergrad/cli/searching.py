"""``hypergrad search``."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hypergrad.cli.console import print_error, print_table
from hypergrad.cli.layers import Layer, Options, environment_layer, file_layer, merged
from hypergrad.cli.parsing import Parser
from hypergrad.cli.refusals import validated
from hypergrad.cli.statuses import DONE, FAILED, INTERRUPTED
from hypergrad.errors import HypergradError, InvalidInputError
from hypergrad.vision.config import RECIPES, TrainConfig, recipe
from hypergrad.vision.run import read_run
from hypergrad.vision.searching import (
    Searched,
    describe_search,
    read_searched,
    resume_search,
    search_and_record,
    search_names,
)
from hypergrad.vision.searching.differences import first_difference
from hypergrad.vision.searching.plan import read_plan, stored
from hypergrad.vision.searching.recorded_runs import read_recorded
from hypergrad.vision.searching.running import RETRIES
from hypergrad.vision.searching.searched import lowest_of
from hypergrad.vision.searching.table import make_search

_USAGE = """hypergrad search --search NAME [--trials N] [--seconds S] [--output DIR] [SETTING ...]
       hypergrad search --resume DIR [--trials N] [--seconds S]
       hypergrad search --list"""

_EPILOG = """\
Settings are those of `hypergrad train`, from the same sources; all trainings share them, the seed included. How the
training images are augmented is what the search chooses: there is no --method.

recipes: {recipes}

examples:
  hypergrad search --list
  hypergrad search --search randaugment --recipe cpu                     the paper's baseline: two trainings
  hypergrad search --search randaugment-random --trials 8 --recipe cpu --output runs/search --workers 2
  hypergrad search --search tpe --as-long-as runs/madao --with-run runs/madao --config runs/madao/config.json
  hypergrad search --resume runs/search                                  finish what is missing
  hypergrad search --resume runs/search --trials 20                      go on to 20 in total
"""


def search_parser() -> tuple[Parser, Options]:
    """The parser of ``search``, and the part of it that holds the settings."""
    parser = Parser(
        "hypergrad search",
        usage=_USAGE,
        description="Search for the augmentation by training with several, and keep the one that validates best.",
        epilog=_EPILOG.format(recipes=", ".join(RECIPES)),
    )
    own = parser.add_argument_group("this search")
    own.add_argument("--search", metavar="NAME", help="which search (see --list)")
    own.add_argument("--list", action="store_true", help="name the searches, and stop")
    own.add_argument(
        "--search-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the search; several values: num_operations=1,2,3",
    )
    own.add_argument("--trials", type=int, metavar="N", help="trainings in total, over all resumes")
    own.add_argument("--seconds", type=float, metavar="S", help="start none once those before took that long together")
    own.add_argument("--as-long-as", type=Path, metavar="RUN", help="--seconds as long as this finished run took")
    own.add_argument("--with-run", type=Path, metavar="RUN", help="record this finished run beside the attempts")
    own.add_argument("--search-seed", type=int, metavar="N", help="seed of what is proposed (default: --seed)")
    own.add_argument("--pruning", action="store_true", help="give up trainings worse than the median at their epoch")
    own.add_argument(
        "--retries",
        type=int,
        default=RETRIES,
        metavar="N",
        help="times that a training which failed, or whose process died, is tried again (default: %(default)s)",
    )
    own.add_argument("--workers", type=int, default=1, metavar="N", help="processes that train (default: 1)")
    own.add_argument(
        "--storage", metavar="URL", help="where the attempts are kept (default: a journal file in the folder)"
    )
    own.add_argument("--config", type=Path, metavar="FILE", help="settings, JSON or TOML (a run's config.json is one)")
    own.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the search, new or empty (default: runs/DATA-SEARCH-TIME)"
    )
    own.add_argument("--resume", type=Path, metavar="DIR", help="finish what is missing of a search")
    own.add_argument("--quiet", action="store_true", help="no progress; print the search's folder only")
    options = Options(parser)
    for action in parser._actions:  # taken as settings, so that the refusal can say why; not offered
        if action.dest == "method" or action.dest.startswith("method."):
            action.help = argparse.SUPPRESS
    return parser, options


def search_command(arguments: Sequence[str]) -> int:
    """Search; the exit status."""
    parser, options = search_parser()
    parsed = parser.parse_args(arguments)
    if parsed.list:
        print_table(("search", "what it does"), [(name, describe_search(name)) for name in search_names()])
        return DONE
    output = parsed.resume
    if output is not None:
        _check_unchanged(parsed, options)
    elif parsed.search is None:
        raise InvalidInputError(f"Give --search NAME or --resume DIR. There are: {', '.join(search_names())}.")
    budget = {"trials": parsed.trials, "seconds": _seconds(parsed)}
    work = {name: getattr(parsed, name) for name in ("workers", "retries", "with_run")}
    work["progress"] = not parsed.quiet
    try:
        if output is not None:
            searched = resume_search(output, **budget, **work)
        else:
            config = _settings(parsed, options)
            output = parsed.output or _new_folder(config, parsed.search)
            searched = search_and_record(
                config,
                parsed.search,
                output,
                options=_search_options(parsed.search_option),
                seed=parsed.search_seed,
                storage=parsed.storage,
                pruning=parsed.pruning,
                **budget,
                **work,
            )
    except KeyboardInterrupt:
        print(f"hypergrad: interrupted; {_left(output)}", file=sys.stderr)
        return INTERRUPTED
    if parsed.quiet:
        print(output)
    else:
        _report(searched, output)
    if searched.result is not None:
        return DONE
    errors = [row["error"] for row in searched.attempts if row["error"] is not None]
    further = f"Go on with: hypergrad search --resume {output}"
    if errors:
        print_error(f"Attempts are missing (the first that failed: {errors[0]}). {further}")
        return FAILED
    print(f"hypergrad: another command is at the attempts that are left. {further}", file=sys.stderr)
    return DONE


def _settings(parsed: argparse.Namespace, options: Options) -> TrainConfig:
    """The configuration from all its sources; a method in a recipe or in a run's file is passed over.

    Raises:
        InvalidInputError: a setting that cannot be, or a method was asked for; the message says from where.
    """
    layers = [environment_layer(), options.layer(parsed)]
    for layer in layers:
        _refuse_method(layer)
    if parsed.config is not None:
        layers.insert(0, file_layer(parsed.config))
    named = [layer.values["recipe"] for layer in layers if layer.values.get("recipe") is not None]
    if named:
        layers.insert(0, Layer(f"the recipe {named[-1]}", recipe(named[-1])))
    return _without_method(layers)


def _refuse_method(layer: Layer) -> None:
    if "method" in layer.values:
        raise InvalidInputError(
            f"A method was given (from {layer.origin}): the search sets how the training images are augmented. Leave "
            "--method out; `hypergrad train --method NAME` trains by one."
        )


def _without_method(layers: Sequence[Layer]) -> TrainConfig:
    kept = [replace(x, values={k: v for k, v in x.values.items() if k != "method"}) for x in layers]
    return validated(merged([*kept, Layer("the search", {"method": {"name": "standard"}})]), kept)


def _check_unchanged(parsed: argparse.Namespace, options: Options) -> None:
    """Refuse what would make another search of the one that is resumed; what is repeated as it was is accepted.

    The environment is not looked at: a resumed search takes nothing from it.
    """
    plan = read_plan(parsed.resume)
    if parsed.output is not None and parsed.output.absolute() != parsed.resume.absolute():
        raise InvalidInputError(f"--output {parsed.output}: a resumed search stays in its folder. Leave it out.")
    held = plan.config.model_dump(mode="json")
    layers = [options.layer(parsed)]
    _refuse_method(layers[0])
    if parsed.config is not None:
        layers.insert(0, file_layer(parsed.config))
    now = _without_method([Layer("the search's folder", held), *layers]).model_dump(mode="json")
    options_now = {**asdict(plan.search), **_search_options(parsed.search_option)}  # type: ignore[call-overload]
    changes: list[tuple[str, Any, Any]] = [
        ("--search", plan.name, parsed.search or plan.name),
        ("--search-seed", plan.seed, plan.seed if parsed.search_seed is None else parsed.search_seed),
        ("--storage", plan.storage, plan.storage if parsed.storage is None else stored(parsed.storage)),
        ("--pruning", plan.pruning, plan.pruning or parsed.pruning),
        ("--search-option", plan.search, make_search(plan.name, options_now)),
        *filter(None, [first_difference(held, now)]),
    ]
    for name, before, value in changes:
        if value != before:
            raise InvalidInputError(
                f"{name} was {before!r} when the search in {parsed.resume} was begun, and is {value!r} now. --resume "
                "takes its settings from there: leave it out, or begin another search with --output."
            )


def _seconds(parsed: argparse.Namespace) -> float | None:
    """The budget in time.

    Raises:
        InvalidInputError: it is given twice, or by a run that is not finished.
    """
    if parsed.as_long_as is None:
        return None if parsed.seconds is None else float(parsed.seconds)
    if parsed.seconds is not None:
        raise InvalidInputError("--seconds and --as-long-as both set the time. Give one of them.")
    run = read_run(parsed.as_long_as)
    if run.result is None:
        raise InvalidInputError(f"{run.path} is not finished, so it is not known how long it takes. Wait for it.")
    # All of it, reading and evaluating included: an attempt's seconds are the same.
    return float(run.result["wall_seconds"])


def _search_options(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise InvalidInputError(f"--search-option {text!r} cannot be read. Write KEY=VALUE, or KEY=VALUE,VALUE.")
        parts = [_scalar(part) for part in value.split(",")]
        found[key.replace("-", "_")] = parts[0] if len(parts) == 1 else tuple(parts)
    return found


def _scalar(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _new_folder(config: TrainConfig, search: str) -> Path:
    return Path("runs") / f"{config.data.name}-{search}-{time.strftime('%Y%m%d-%H%M%S')}"


def _left(output: Path | None) -> str:
    """What a search that was stopped has on the disk."""
    try:
        assert output is not None
        searched = read_searched(output)
    except (HypergradError, AssertionError):
        return "nothing was written"
    done = sum(row["state"] in ("complete", "pruned") for row in searched.attempts)
    total = searched.plan["trials"]
    of = "" if total is None else f" of {total}"
    return f"{output} holds {done}{of} attempts; go on with: hypergrad search --resume {output}"


def _report(searched: Searched, output: Path) -> None:
    plan = read_plan(searched.path)
    print_table(
        ("attempt", "augmentation", "validation error", "seconds", "state"),
        [
            (
                row["number"],
                plan.settled.told(row["params"]),
                "" if row["value"] is None else f"{row['value']:.2f} %",
                f"{row['seconds']:.1f}",
                row["state"],
            )
            for row in searched.attempts
        ],
    )
    print()
    best, lowest = searched.best, lowest_of(searched.attempts)
    if lowest is not None:
        print(f"best              attempt {lowest['number']}: {plan.settled.told(lowest['params'])}")
        print(f"validation error  {lowest['value']:.2f} %")
        if lowest["test_error"] is not None:
            print(f"test error        {lowest['test_error']:.2f} %")
    seconds = sum(row["seconds"] for row in searched.attempts)
    passes = sum(row["passes"] for row in searched.attempts)
    print(f"cost              {len(searched.attempts)} attempts, {seconds:.1f} s, {passes:.0f} passes")
    for row in read_recorded(searched.path):
        print(f"recorded beside   {row['run']} ({row['method']}): validation error {row['value']:.2f} %")
    print(f"folder            {output}")
    if best is not None:
        print(f"use it            hypergrad predict {output / best.path.relative_to(searched.path)} IMAGE...")
    print(f"dashboard         optuna-dashboard {_place(plan.storage, output)}")


def _place(storage: str, output: Path) -> str:
    """What Optuna's dashboard opens."""
    kind, _, place = storage.partition(":")
    # The driver that our extra installs, which is not SQLAlchemy's own choice.
    return {"journal": str(output / place), "postgresql": f"postgresql+psycopg:{place}"}.get(kind, storage)
