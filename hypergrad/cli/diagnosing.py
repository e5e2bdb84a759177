"""``hypergrad diagnose``."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hypergrad import solvers
from hypergrad.augment import Policy
from hypergrad.cli.devices import add_device, add_trust, chosen_device
from hypergrad.cli.parsing import Parser
from hypergrad.cli.statuses import DONE
from hypergrad.diagnostics import diagnose
from hypergrad.diagnostics.drawing import check_ending
from hypergrad.diagnostics.examining import SOLVERS
from hypergrad.errors import InvalidInputError
from hypergrad.keys import derive
from hypergrad.objective import ModelObjective
from hypergrad.solvers.base import Solver
from hypergrad.solvers.neumann import Neumann
from hypergrad.vision import policies
from hypergrad.vision.config import Fixed, Madao, OhlAutoAugment, TrainConfig
from hypergrad.vision.inner_loop import InnerLoop
from hypergrad.vision.predict import load
from hypergrad.vision.run import read_run
from hypergrad.vision.splits import make_splits

_EPILOG = """\
The network and the policy are those at the end of the run, the batches are drawn from its own training and validation
images, with its standard augmentation and its batch sizes. A run without a learned policy is diagnosed with the policy
of --method fixed in its place: each operation as likely as any other.

examples:
  hypergrad diagnose runs/first
  hypergrad diagnose runs/first --output diagnosis.png
  hypergrad diagnose runs/first --json --batches 16
"""


def diagnose_command(arguments: Sequence[str]) -> int:
    """Diagnose a finished run; the exit status."""
    parser = Parser(
        "hypergrad diagnose",
        description="Say whether the hypergradients of a finished run can be trusted, and what to change.",
        epilog=_EPILOG,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--batches", type=int, default=8, metavar="N", help="pairs of batches (default: 8)")
    parser.add_argument(
        "--max-hvps", type=int, default=20, metavar="N", help="most products with the Hessian a solve (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="print every number as JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="draw it, .png, .pdf or .svg")
    add_device(parser)
    add_trust(parser)
    parsed = parser.parse_args(arguments)
    for option, value in (("--batches", parsed.batches), ("--max-hvps", parsed.max_hvps)):
        if value < 2:
            raise InvalidInputError(f"{option} must be at least 2; got {value}.")
    if parsed.output is not None:
        check_ending(parsed.output)  # before minutes of work
    finished = _Finished(parsed.run, chosen_device(parsed.device), parsed.trust_code)
    found = diagnose(
        finished.objective,
        finished.train_batch,
        finished.val_batch,
        solvers=finished.solvers,
        damping=finished.damping,
        batches=parsed.batches,
        max_hvps=parsed.max_hvps,
        seed=derive(finished.config.seed, "diagnose"),
    )
    if parsed.output is not None:
        found.draw(parsed.output)
    if parsed.json:
        policy = "learned" if finished.learned else "fixed"
        print(json.dumps({"run": str(parsed.run), "policy": policy, **found.row()}))
        return DONE
    print(f"{parsed.run.name}: {finished.description}\n")
    print(found)
    if parsed.output is not None:
        print(f"\npicture  {parsed.output}")
    return DONE


class _Finished(InnerLoop):
    """The objective of a finished run at its end, and batches of its own data.

    Raises:
        InvalidInputError: no finished run there, or a damaged file.
    """

    def __init__(self, run: Path, device: str, trust_code: bool) -> None:
        recorded = read_run(run)
        if recorded.result is None:
            raise InvalidInputError(f"{run} has no result.json: the run did not finish. Finish it, or name another.")
        network = load(run, trust_code=trust_code).network
        config = TrainConfig(**recorded.config)
        # The end of the run is read from its folder: the weights that it started from are not needed.
        own = {"device": device, "compile": False, "model": config.model.model_copy(update={"weights": None})}
        super().__init__(config.model_copy(update=own), make_splits(config.data, derive(config.seed, "data")))
        self.network.load_state_dict(network.state_dict())
        self.network.train()
        method, channels = config.method, self.splits.channels
        self.learned = isinstance(method, Madao | OhlAutoAugment)
        family = policies.learned_policy(method if isinstance(method, Madao | Fixed) else Fixed(), channels)
        if self.learned:
            family.policy = Policy.load(run / "policy.json")
        family = family.to(self.device)
        members = [family] if self.after is None else [family, policies.Applied(self.after)]
        self.objective = ModelObjective(self.network, members, weight_decay=config.weight_decay)
        madao = method if isinstance(method, Madao) else Madao()
        self.damping = madao.damping
        self.solvers = _solvers(method)
        inner, outer = madao.outer_batch_size or config.batch_size, madao.val_batch_size or config.batch_size
        self._key = derive(config.seed, "diagnose")
        self._train_order = self.splits.train.order(inner, derive(self._key, "order"))
        self._val_order = self.splits.val.order(outer, derive(self._key, "val-order"))

    @property
    def description(self) -> str:
        """What is diagnosed, a sentence."""
        policy = (
            "the policy that it learned"
            if self.learned
            else "no policy was learned, so that of --method fixed is diagnosed in its place"
        )
        return f"{self.config.method.name} on {self.config.data.name}, {self.config.model.name}; {policy}."

    def train_batch(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images after the standard augmentation, targets, positions."""
        (positions,) = self._train_order.batch(t)
        return self._prepared(self.splits.train, positions, derive(self._key, "crop", t))

    def val_batch(self, t: int) -> tuple[Tensor, Tensor]:
        """Images, targets."""
        (positions,) = self._val_order.batch(t)
        images, targets = self.splits.val.draw(positions)
        return self._central(self._as_floats(images.to(self.device))), targets.to(self.device)


def _solvers(method: object) -> list[str | Solver]:
    """The run's own solver first, then the others; a Neumann series that nobody configured finds its alpha."""
    own: list[str | Solver] = []
    if isinstance(method, Madao) and method.solver != "unrolled":
        own.append(solvers.get(method.solver, **method.solver_options))
    series: list[str | Solver] = [] if own and isinstance(own[0], Neumann) else [Neumann(alpha="auto")]
    known = {type(entry) for entry in (*own, *series)}
    rest = [name for name in SOLVERS if isinstance(name, str) and type(solvers.get(name)) not in known]
    return [*own, *series, *rest]
