"""A model, and no measurement: how long a step takes on n ranks with the same whole batch.

    T(n) = T(1) / n + (2 (n - 1) reductions + (n - 1) gathers) latency + 2 (n - 1) / n  bytes / bandwidth

- T(1) is what one process was measured to take, and is assumed to divide evenly. It does not quite: small shards use
  a processor worse, and the solver's own vector arithmetic is done by each rank.
- A reduction of s bytes is a ring: each rank sends and receives ``2 (n - 1) / n s`` bytes in ``2 (n - 1)`` messages,
  each of which waits for the latency. A gather of counts or hashes is ``n - 1`` messages.
- A reduction does not overlap with computation here: each product needs the sum of the one before.
"""

from typing import Any

#: Name: bytes a second of a rank's connection, and seconds of a message; both are assumed.
NETWORKS = {
    "Ethernet, 10 Gbit/s, 50 us": (1.25e9, 50e-6),
    "100 Gbit/s, 5 us": (12.5e9, 5e-6),
}
#: Of an element: float32.
BYTES = 4
RANKS = (1, 2, 4, 8, 16, 32)


def seconds(alone: float, traffic: dict[str, int], ranks: int, bandwidth: float, latency: float) -> float:
    """Of one step.

    Args:
        alone: seconds on one rank.
        traffic: of one step: reductions, elements in all of them, gathers.
        ranks: how many.
        bandwidth: bytes a second.
        latency: seconds of a message.
    """
    if ranks == 1:
        return alone
    messages = 2 * (ranks - 1) * traffic["reductions"] + (ranks - 1) * traffic["gathers"]
    moved = 2 * (ranks - 1) / ranks * BYTES * traffic["elements"]
    return alone / ranks + messages * latency + moved / bandwidth


def speedups(alone: float, traffic: dict[str, int]) -> dict[str, list[float]]:
    """By the network's name, at each of :data:`RANKS`."""
    return {
        name: [alone / seconds(alone, traffic, n, bandwidth, latency) for n in RANKS]
        for name, (bandwidth, latency) in NETWORKS.items()
    }


def formula(parameters: int, hyperparameters: int, num_hvps: int) -> dict[str, int]:
    """Elements that the reductions of a step move, without flags and values: what `traffic` must be near to."""
    k, p, h = num_hvps, parameters, hyperparameters
    return {"inner step": p, "hypergradient": (k + 2) * p + 2 * h}


def median_wall(rows: list[dict[str, Any]]) -> float:
    """Of some rounds."""
    walls = sorted(row["wall"] for row in rows)
    middle = len(walls) // 2
    return float(walls[middle] if len(walls) % 2 else (walls[middle - 1] + walls[middle]) / 2)
