"""What this process is among the ranks of ``torch.distributed``, and what all ranks must agree on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import distributed

from hypergrad.errors import RankError

_alone: ContextVar[bool] = ContextVar("hypergrad_alone", default=False)


def world_size() -> int:
    """How many ranks work together: 1 without ``torch.distributed``, and within :func:`alone`."""
    if _alone.get() or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def rank() -> int:
    """This process's number among them, from 0."""
    return 0 if world_size() == 1 else distributed.get_rank()


def is_writer() -> bool:
    """Whether this rank writes files and talks: the first one does."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks; nothing where there is one."""
    gather([0])


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process computes as if it were the only one: nothing is reduced and nobody is waited for.

    For what one rank does for itself, on the whole data: a diagnosis, a comparison with the reduced result.
    """
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def gather(numbers: Sequence[int]) -> list[list[int]]:
    """The integers of each rank (equally many on each), in the order of the ranks."""
    if world_size() == 1:
        return [list(numbers)]
    mine = torch.tensor(list(numbers), dtype=torch.int64, device=_control_device())
    found = [torch.empty_like(mine) for _ in range(world_size())]
    distributed.all_gather(found, mine)
    rows: list[list[int]] = torch.stack(found).tolist()
    return rows


def from_first(text: str, source: int = 0) -> str:
    """The text of rank 0, or of another ``source``, on every rank; other ranks' own are passed over."""
    if world_size() == 1:
        return text
    content = text.encode()
    length = gather([len(content)])[source][0]
    held = content if rank() == source else bytes(length)
    buffer = torch.tensor(list(held), dtype=torch.uint8, device=_control_device())
    distributed.broadcast(buffer, source)
    return bytes(buffer.tolist()).decode()


def differing(digests: Mapping[str, str]) -> dict[str, list[int]]:
    """By the name of what was hashed, the ranks whose digest is not that of rank 0; empty where all agree.

    Args:
        digests: in hexadecimal, at least 30 digits each; the same names on every rank.
    """
    # 120 bits of each, as two integers that fit into int64.
    rows = gather([int(digest[k : k + 15], 16) for digest in digests.values() for k in (0, 15)])
    found = {}
    for number, name in enumerate(digests):
        held = [row[2 * number : 2 * number + 2] for row in rows]
        found[name] = [r for r, value in enumerate(held) if value != held[0]]
    return {name: ranks for name, ranks in found.items() if ranks}


def agree(digests: Mapping[str, str], remedies: Mapping[str, str]) -> None:
    """Refuse to go on where the ranks differ; every rank raises then.

    Args:
        digests: see :func:`differing`.
        remedies: what to do where it differs, by the same names.

    Raises:
        RankError: names what differs and the ranks that do not have what rank 0 has.
    """
    for name, ranks in differing(digests).items():
        raise RankError(f"The {name} of rank {_listed(ranks)} differ from those of rank 0. {remedies[name]}")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _control_device() -> torch.device:
    """The CPU where a backend serves it, so that no GPU is waited for."""
    if "cpu" in str(distributed.get_backend_config()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
