"""What is made of a pass over the images when it is done: its record, and what is written and shown of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from hypergrad.augment import FixedPolicy, Policy
from hypergrad.result import StepRecord
from hypergrad.vision.evaluation import Evaluation
from hypergrad.vision.ohl import OnlineRecord
from hypergrad.vision.outcome import Epoch
from hypergrad.vision.policies import selection_entropy
from hypergrad.vision.run import GoingOn, RunDirectory

Updates = Sequence[StepRecord | OnlineRecord]


def epoch_of(
    epoch: int,
    *,
    step: int,
    train_loss: float,
    val: Evaluation,
    lr: float,
    learned: Policy | FixedPolicy | None,
    outer_steps: int,
    updates: Updates,
    seconds: float,
) -> Epoch:
    """The record of a pass.

    Args:
        epoch, step, train_loss, lr, seconds: see :class:`~hypergrad.vision.outcome.Epoch`.
        val: on the validation images.
        learned: the policy as it is now; None where nothing is learned.
        outer_steps: updates of the policy so far.
        updates: those of this pass.
    """
    records = [r for r in updates if isinstance(r, StepRecord)]
    norms = [r.grad_norm for r in records]
    return Epoch(
        epoch=epoch,
        step=step,
        train_loss=train_loss,
        val_loss=val.loss,
        val_error=val.error,
        lr=lr,
        policy_entropy=None if learned is None else selection_entropy(learned),
        updates=outer_steps,
        statuses=dict(Counter(r.status.value for r in records if r.status is not None)),
        hypergradient=sum(norms) / len(norms) if norms else None,
        seconds=seconds,
    )


def write_epoch(
    directory: RunDirectory, epoch: Epoch, *, learned: Policy | FixedPolicy | None, updates: Updates
) -> None:
    """Append a pass and its updates to the run's metrics, and save the policy that is learned.

    Warns:
        HypergradWarning: something could not be written.
    """
    for update in updates:
        kind = "update" if isinstance(update, StepRecord) else "online"
        directory.append({"kind": kind, **update.row()})
    directory.append({"kind": "epoch", **asdict(epoch)})
    if learned is not None:
        with GoingOn(f"The policy of epoch {epoch.epoch} could not be written"):
            directory.save_policy(learned, epoch.epoch)


def note(epoch: int, epochs: int, history: Sequence[Epoch]) -> str:
    """A line beside the progress bar: the pass that runs, and how the last one ended."""
    if not history:
        return f"epoch {epoch}/{epochs}"
    last = history[-1]
    entropy = "" if last.policy_entropy is None else f", policy entropy {last.policy_entropy:.2f}"
    return f"epoch {epoch}/{epochs}, loss {last.train_loss:.3f}, validation error {last.val_error:.2f} %{entropy}"
