"""The processes that torchrun has started for one command: how they meet, and who of them speaks."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from hypergrad.distributed import barrier
from hypergrad.errors import InvalidInputError

#: What torchrun, and whatever else starts ranks, tells each process.
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: In which ranks that were started must have met.
_MEETING = timedelta(minutes=30)


@dataclass
class Ranks:
    """This process among those that were started together.

    Attributes:
        rank, size: this one's number, and how many there are.
        store: what all of them can write to, from their start on and whatever else has failed.
    """

    rank: int
    size: int
    store: Any
    _said: Counter[str] = field(default_factory=Counter)

    def first(self, what: str) -> bool:
        """Whether no rank has asked for this before, as often as this one has now: so one of them speaks for all."""
        self._said[what] += 1
        name = hashlib.sha256(what.encode()).hexdigest()
        try:
            return bool(self.store.add(f"hypergrad/{name}/{self._said[what]}", 1) == 1)
        except RuntimeError:  # the store is gone, with the machine that held it
            return True

    @property
    def name(self) -> str:
        """What its messages begin with; the first one's are those of a single process."""
        return "hypergrad" if self.rank == 0 else f"hypergrad: rank {self.rank}"


_current: ContextVar[Ranks | None] = ContextVar("hypergrad_ranks", default=None)


def current() -> Ranks | None:
    """The ranks within :func:`met`; None for a process alone."""
    return _current.get()


@contextlib.contextmanager
def met(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks | None]:
    """Within, this process knows the others, and only the first one prints on stdout.

    Raises:
        InvalidInputError: the environment tells of several ranks, but not where they meet.
    """
    if environment.get("WORLD_SIZE", "1").strip() == "1" or "RANK" not in environment:
        yield None
        return
    rank, size = _checked(environment)
    store, _, _ = next(iter(rendezvous("env://", timeout=_MEETING)))
    # A restart by torchrun meets in the same store, where the addresses of those that died are still found (pytorch
    # #135712), unless it was told to make a store for each start. Then no count is needed, on which machines that came
    # and went would not agree.
    own_store = environment.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
    attempt = "0" if own_store else environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    found = Ranks(rank, size, distributed.distributed_c10d.PrefixStore(f"hypergrad/attempt {attempt}", store))
    token = _current.set(found)
    try:
        with contextlib.ExitStack() as stack:
            if rank:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield found
    finally:
        _current.reset(token)


@contextlib.contextmanager
def computing(device: str) -> Iterator[None]:
    """Within, the ranks compute together, by gloo on CPUs and NCCL on GPUs; nothing for a process alone.

    Whoever is done waits for the others: torchrun ends all when one ends with another status than 0.

    Args:
        device: as the configuration has it; each rank gets the GPU of its number on its machine.

    Raises:
        InvalidInputError: a GPU was named, or there are fewer than ranks.
    """
    ranks = _current.get()
    if ranks is None:
        yield
        return
    gpus = torch.cuda.device_count() if device == "auto" or device.startswith("cuda") else 0
    if gpus:  # without one, "cuda" is refused where it is resolved
        _choose_gpu(device, gpus)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    distributed.init_process_group(backend, store=ranks.store, rank=ranks.rank, world_size=ranks.size)
    yield
    # After an error the others may be anywhere, and are not waited for.
    barrier()
    distributed.destroy_process_group()


def _choose_gpu(device: str, gpus: int) -> None:
    if ":" in device:
        raise InvalidInputError(
            f"device={device!r} names one GPU, and there are several ranks. Give device=cuda: each rank takes the one "
            "of its number on its machine. CUDA_VISIBLE_DEVICES says which there are."
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= gpus:
        raise InvalidInputError(
            f"The rank of number {local} on its machine finds {gpus} GPUs there. Start at most one rank for each GPU "
            f"(torchrun --nproc-per-node {gpus}), or give --device cpu."
        )
    torch.cuda.set_device(local)


def _checked(environment: Mapping[str, str]) -> tuple[int, int]:
    missing = [name for name in _NEEDED if not environment.get(name)]
    found = {name: environment.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    whole = all(text.strip().isdecimal() for text in found.values())
    if missing or not whole or not int(found["RANK"]) < int(found["WORLD_SIZE"]):
        told = ", ".join(f"{name}={text!r}" for name, text in found.items())
        lacks = f", and lacks {', '.join(missing)}" if missing else ""
        raise InvalidInputError(
            f"The environment tells of several ranks ({told}){lacks}. Start them by torchrun, or remove RANK and "
            "WORLD_SIZE from the environment to run in one process."
        )
    return int(found["RANK"]), int(found["WORLD_SIZE"])


def lost_contact(error: BaseException) -> bool:
    """Whether the error is torch's about a rank that has gone, and not one's own."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError)
        and any(word in str(error) for word in ("gloo", "NCCL", "Connection", "TCPStore", "Broken pipe"))
    )
