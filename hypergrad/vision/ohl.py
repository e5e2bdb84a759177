"""OHL-Auto-Aug: a policy's distribution learnt by the score function, beside the training, from parallel trajectories.

After Lin et al., "Online Hyper-parameter Learning for Auto-Augmentation Strategy", ICCV 2019, section 3. The run is cut
into intervals. In each, P trajectories start from the same network and optimizer. A trajectory draws a sub-policy ``o``
from the policy's distribution ``q`` (or several, one after the other), augments whole batches with it, and then gets a
reward ``R``, the accuracy of its network on validation images. The policy takes a step of its optimizer along

    g = 1 / (P - 1)  sum over trajectories n of  (R_n - mean of R)  sum over the draws of n of  grad log q(o)

(:mod:`hypergrad.vision.sub_policies` has q), and all trajectories go on from the network and the optimizer of the one
with the highest reward. R is a share in [0, 1]; g is with respect to the raw parameters (logits) of pi, mu and p.

With 1 / (P - 1) the baseline of each trajectory is the mean of the others' rewards, which do not depend on its draws: g
is an unbiased estimate of the gradient of E[R] at the end of the interval (Kool et al., "Buy 4 REINFORCE samples, get a
baseline for free!", 2019). With 1 / P it would be too short by the share 1 / P. Data order, crops, dropout, the
operations' signs and the rewards' images are the same for all trajectories of an interval (common random numbers), so
that what differs between the rewards comes from the draws.

How often to draw. The paper draws for every inner step (``draws=None``). A draw for each image would be MADAO's own way
of augmenting, but the score of a trajectory then sums over all its images, and the share of one draw in the reward
drowns in that of the others. For the same reason one draw for the whole interval (``draws=1``, the default) tells more
about what was drawn: where the reward is the sum of what the steps bring and of a noise that is large beside it, its
squared signal-to-noise ratio is higher by the number of steps. The price: the network that goes on has seen a single
sub-policy for an interval, the best of P.

Where it departs from the paper: the space is MADAO's (the paper has one multinomial distribution over pairs of
operations, each of a fixed strength; here each stage has its own over operations, and application and magnitude are
drawn as well); one draw an interval by default; an interval ends with the epoch at the latest. The rewards are centred
and not divided by their deviation, which would bias the estimate.

The reward sees the end of its own interval only, and the trajectory that goes on is chosen on the same validation
images: the validation error of such a run is lower than its error on new images, as after any choice.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hypergrad.augment import FixedPolicy, Policy
from hypergrad.keys import derive
from hypergrad.vision.sub_policies import SubPolicies, draw_sub_policies, log_probability


@dataclass(frozen=True)
class OnlineRecord:
    """One interval and the update of the policy at its end, in plain numbers.

    Attributes:
        inner_step: inner steps of the run at its end (those of one trajectory).
        outer_step: updates of the policy, this one included.
        rewards: of the trajectories, accuracies in [0, 1].
        best: which of them went on, from 0.
        grad_norm: norm of the estimated gradient of the expected reward; 0 where all rewards are equal.
        seconds: wall time of the interval, all trajectories together.
    """

    inner_step: int
    outer_step: int
    rewards: tuple[float, ...]
    best: int
    grad_norm: float
    seconds: float

    def row(self) -> dict[str, Any]:
        """A flat dictionary of plain values, for a table, JSON or a data frame."""
        return asdict(self)


class State:
    """A copy of what a trajectory changes: parameters, buffers (those of batch normalisation too), and the optimizer.

    Random numbers are functions of the step (:mod:`hypergrad.keys`), so there is no generator to copy.

    Args:
        network: copied as it is now.
        optimizer: of its parameters.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._tensors = [t.detach().clone() for t in (*network.parameters(), *network.buffers())]
        self._optimizer = copy.deepcopy(optimizer.state_dict())

    @torch.no_grad()
    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the copy back, as often as needed."""
        for tensor, held in zip((*network.parameters(), *network.buffers()), self._tensors, strict=True):
            tensor.copy_(held)
        # An optimizer takes the tensors of a state as they are, and writes into them.
        optimizer.load_state_dict(copy.deepcopy(self._optimizer))

    def state_dict(self) -> dict[str, Any]:
        """The copies themselves, for a checkpoint."""
        return {"tensors": self._tensors, "optimizer": self._optimizer}

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> "State":
        """What :meth:`state_dict` gave."""
        made = cls.__new__(cls)
        made._tensors = [t.to(device) for t in state["tensors"]]
        made._optimizer = dict(state["optimizer"])
        return made


@dataclass
class Interval:
    """An interval that has begun, and how far its trajectories are.

    Attributes:
        start: what each of them starts from.
        best: what the best one so far has left.
        losses: sum of the best one's losses, 0-d.
        winner: its number.
        rewards: of the trajectories that are at their end.
        taken: the loss of each step of the one that is not.
        begun: reading of the clock at the start, put back by what was spent in earlier sessions.
    """

    start: State
    best: State
    losses: Tensor
    winner: int = 0
    rewards: list[float] = field(default_factory=list)
    taken: list[Tensor] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "start": self.start.state_dict(),
            "best": self.best.state_dict(),
            "losses": self.losses,
            "winner": self.winner,
            "rewards": self.rewards,
            "taken": self.taken,
            "seconds": time.perf_counter() - self.begun,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> "Interval":
        """What :meth:`state_dict` gave."""
        return cls(
            start=State.of(state["start"], device),
            best=State.of(state["best"], device),
            losses=state["losses"].to(device),
            winner=state["winner"],
            rewards=list(state["rewards"]),
            taken=[t.to(device) for t in state["taken"]],
            begun=time.perf_counter() - state["seconds"],
        )


class Online:
    """The policy, its optimizer, and the intervals.

    Args:
        policy: what is learnt.
        optimizer: of its parameters.
        trajectories: P, at least 2.
        every: inner steps of an interval, at most.
        draws: sub-policies that a trajectory draws in an interval, each for an equal share of it (to one step); None:
            one for each inner step.
        spread: of the magnitudes, see :func:`hypergrad.vision.sub_policies.draw_sub_policies`.
        seed: of the draws.

    Attributes:
        outer_step: updates so far.
        interval: the one that has begun and is not at its end; None between two.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        *,
        trajectories: int,
        every: int,
        draws: int | None,
        spread: float,
        seed: int,
    ) -> None:
        self.policy, self.optimizer = policy, optimizer
        self.trajectories, self.every, self.draws, self.spread, self.seed = trajectories, every, draws, spread, seed
        self.outer_step = 0
        self.interval: Interval | None = None

    def intervals(self, steps: range) -> Iterator[range]:
        """The steps cut into as few intervals of at most ``every`` as possible, whose lengths differ by at most 1."""
        count = -(-len(steps) // self.every)
        for i in range(count):
            yield steps[i * len(steps) // count : (i + 1) * len(steps) // count]

    def run(
        self,
        steps: range,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        advance: Callable[[int, FixedPolicy], Tensor],
        reward: Callable[[], float],
    ) -> tuple[OnlineRecord, Tensor]:
        """An interval of every trajectory, and the update of the policy.

        Where ``advance`` or ``reward`` raises before it has done anything, as it does after a signal, the same call
        goes on from there; also after :meth:`load_state_dict`, with network and optimizer as they were.

        Args:
            steps: of the interval.
            network, optimizer: left as the best trajectory leaves them (the first of several).
            advance: takes an inner step, given its number and what augments; returns the loss, 0-d.
            reward: of the network as it is.

        Returns:
            The record, and the sum of the best trajectory's losses, 0-d.
        """
        if self.interval is None:
            start = State(network, optimizer)
            self.interval = Interval(start, start, torch.zeros(()))
        now = self.interval
        drawn = [self.draw(n, len(steps)) for n in range(self.trajectories)]
        for n in range(len(now.rewards), self.trajectories):
            if n and not now.taken:
                now.start.restore(network, optimizer)
            fixed = [drawn[n].fixed(i, self.policy) for i in range(len(drawn[n]))]
            for i in range(len(now.taken), len(steps)):
                now.taken.append(advance(steps[i], fixed[i * len(fixed) // len(steps)]))
            now.rewards.append(reward())
            if now.rewards[-1] > max(now.rewards[:-1], default=float("-inf")):
                now.best, now.losses, now.winner = State(network, optimizer), torch.stack(now.taken).sum(), n
            now.taken = []
        now.best.restore(network, optimizer)
        norm = self.update(now.rewards, [log_probability(self.policy, d, self.spread).sum() for d in drawn])
        self.interval = None
        seconds = time.perf_counter() - now.begun
        return OnlineRecord(steps.stop, self.outer_step, tuple(now.rewards), now.winner, norm, seconds), now.losses

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on besides the network and its optimizer."""
        return {
            "outer_step": self.outer_step,
            "policy": {name: p.detach() for name, p in self.policy.named_parameters()},
            "optimizer": self.optimizer.state_dict(),
            "interval": None if self.interval is None else self.interval.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, bit for bit."""
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                parameter.copy_(state["policy"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.outer_step = state["outer_step"]
        device = next(self.policy.parameters()).device
        self.interval = None if state["interval"] is None else Interval.of(state["interval"], device)

    def draw(self, trajectory: int, steps: int) -> SubPolicies:
        """What the trajectory of that number draws in the interval of so many steps before the next update."""
        key = derive(self.seed, "sub-policies", self.outer_step, trajectory)
        return draw_sub_policies(self.policy, min(self.draws or steps, steps), self.spread, key)

    def update(self, rewards: list[float], scores: list[Tensor]) -> float:
        """A step of the policy's optimizer up the estimated gradient; its norm.

        Args:
            rewards: P of them.
            scores: log-probability of what each trajectory drew, 0-d, with a graph to the policy.
        """
        mean = sum(rewards) / len(rewards)
        weighted = [(r - mean) * score for r, score in zip(rewards, scores, strict=True)]
        self.optimizer.zero_grad()
        (-torch.stack(weighted).sum() / (len(rewards) - 1)).backward()
        norm = torch.cat([p.grad.flatten() for p in self.policy.parameters() if p.grad is not None]).norm()
        self.optimizer.step()
        self.outer_step += 1
        return float(norm)
