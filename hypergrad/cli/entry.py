"""From a line of arguments to a command and an exit status."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hypergrad.cli.console import plain_warnings, print_error
from hypergrad.cli.parsing import Parser
from hypergrad.cli.ranks import current, lost_contact, met
from hypergrad.cli.statuses import BAD_INPUT, DONE, FAILED, INTERRUPTED
from hypergrad.errors import HypergradError, InvalidInputError, MissingLibraryError, RankError
from hypergrad.registry import Registry
from hypergrad.version import __version__

#: Command to what it does, in a line.
SUMMARIES = {
    "train": "train a network by one method, and leave a folder with everything that was measured",
    "search": "search for the augmentation by training with several, and keep the one that validates best",
    "compare": "train by several methods and seeds in the time that there is, and report who is best",
    "evaluate": "evaluate a finished run again, on its own images or on others of the same classes",
    "predict": "name the class of image files by a finished run",
    "diagnose": "say whether the hypergradients of a finished run can be trusted, and what to change",
    "preview": "draw what a policy of augmentation does",
    "report": "write one page about runs: who is best, by how much, and whether the seeds can tell",
    "datasets": "list the data sets, or check that one can be read",
}

#: What ranks that torchrun has started do together.
OVER_RANKS = ("train",)

# Strings: a command and its libraries are imported when it is asked for.
_commands: Registry[Any] = Registry(
    "command",
    {
        "train": "hypergrad.cli.training:train_command",
        "search": "hypergrad.cli.searching:search_command",
        "compare": "hypergrad.cli.comparing:compare_command",
        "evaluate": "hypergrad.cli.evaluation:evaluate_command",
        "predict": "hypergrad.cli.prediction:predict_command",
        "diagnose": "hypergrad.cli.diagnosing:diagnose_command",
        "preview": "hypergrad.cli.previewing:preview_command",
        "report": "hypergrad.cli.reporting:report_command",
        "datasets": "hypergrad.cli.listing:datasets_command",
    },
)

_EPILOG = """\
commands:
{commands}

Each has its own --help, with examples. A first run, about a minute on two cores:

  hypergrad train --recipe cpu
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        The exit status: 0 done, 1 failed for a reason outside of the input (a full disk), 2 bad input, 75 stopped
        with a checkpoint (start it again to go on), 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # A network of one's own is named by its import path; a console script does not look in the current folder.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    who, first = "hypergrad", True
    with contextlib.ExitStack() as stack:
        try:
            ranks = stack.enter_context(met())
            if ranks is None:
                stack.enter_context(plain_warnings())
            else:
                who = ranks.name
                stack.enter_context(plain_warnings(who, ranks.first))
            return _run(given)
        except SystemExit as stop:  # argparse's --help and --version
            return stop.code if isinstance(stop.code, int) else FAILED
        except KeyboardInterrupt:
            print(f"{who}: interrupted; nothing was left half-written", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            # The reader of the output has gone (`| head`); closing stderr keeps Python from complaining at exit.
            sys.stderr.close()
            return DONE
        except Exception as error:
            # The first rank with an error tells it; the others have the same one, or have lost contact with that rank.
            ranks = current()
            first = ranks is None or ranks.first("error")
            if ranks is not None and lost_contact(error):
                error = RankError(
                    f"lost contact with another rank, which has ended or cannot be reached. {_short(error)}"
                )
            if debug or (first and not isinstance(error, HypergradError | OSError)):
                raise
            if first:
                print_error(error, who)
            return BAD_INPUT if isinstance(error, HypergradError) else FAILED


def _run(given: list[str]) -> int:
    # Options of the program itself stand before the command.
    position = next((i for i, word in enumerate(given) if not word.startswith("-")), len(given))
    parser = Parser(
        "hypergrad",
        usage="hypergrad COMMAND ...",
        description="Learn an augmentation policy while a network trains; train and compare by fixed ones.",
        epilog=_EPILOG.format(commands="\n".join(f"  {name:10}{text}" for name, text in SUMMARIES.items())),
    )
    parser.add_argument("--version", action="version", version=f"hypergrad {__version__}")
    parser.parse_args(given[:position])
    if position == len(given):
        parser.print_help()
        return BAD_INPUT
    if current() is not None and given[position] not in OVER_RANKS:
        raise InvalidInputError(
            f"`hypergrad {given[position]}` was started as several ranks (torchrun), each of which would do the same. "
            f"Only `hypergrad {OVER_RANKS[0]}` runs so; start this one alone."
        )
    return _load(given[position])(given[position + 1 :])


def _load(name: str) -> Callable[[list[str]], int]:
    try:
        command: Callable[[list[str]], int] = _commands.lookup(name)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("hypergrad", ""):
            raise
        raise MissingLibraryError(
            f"`hypergrad {name}` needs {library}, which cannot be imported ({error}). "
            'Install it: pip install "hypergrad-toolkit[vision]".'
        ) from error
    return command


def _short(error: BaseException) -> str:
    """The first line of torch's message."""
    return f"({next(iter(str(error).splitlines()), '')[:120]})"
