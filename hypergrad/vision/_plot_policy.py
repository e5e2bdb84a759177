"""The policy over a run, as in Figures 3 to 5 of the paper (Hataya et al., WACV 2022): pi, mu and p by epoch."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hypergrad.augment import PAPER_OPERATIONS, Policy
from hypergrad.errors import InvalidInputError
from hypergrad.vision._plot import AREAS, Axes, Figure, add_axes, add_title, boundaries, new_figure, whole_numbers

# In inches.
_AREAS_LEFT, _AREAS_WIDTH = 0.75, 3.7
_MAP_LEFTS, _MAP_WIDTH = {"mu": 7.15, "p": 9.6}, 1.9  # for names of twelve letters
_TOP, _GAP, _BOTTOM = 1.15, 0.35, 1.0
_LABEL_PITCH = 0.165
_HEADINGS = {
    "pi": "π: probability of the pick",
    "mu": "μ: magnitude",
    "p": "p: probability of application",
}
# Both ends are dark, and no kind of colour blindness takes one for the other.
_MAP = "PuOr_r"


def policy_history(
    path: Path, policies: Sequence[tuple[int, Policy]], *, label: str, first_update: float | None
) -> Figure:
    """The picture of a learned policy over epochs, a row of panels a stage.

    On the left pi as stacked areas; on the right mu and p as maps, operations in rows, epochs in columns. The maps
    are white at 0.5, where a policy starts, and their last column stands in numbers beside them.

    Args:
        path: of the run, for messages.
        policies: epoch and policy, in order; at least one.
        label: of the run.
        first_update: when the policy was first updated, in epochs; None: it was not.

    Raises:
        InvalidInputError: two of the policies differ in stages or operations.
    """
    epochs = [epoch for epoch, _ in policies]
    table = policies[-1][1].mixture.operations
    names, stages = [operation.name for operation in table], policies[-1][1].stages
    for epoch, policy in policies:
        if policy.operations != tuple(names) or policy.stages != stages:
            raise InvalidInputError(
                f"{path / 'policies'}: the policy of epoch {epoch} has {policy.stages} stages of "
                f"{', '.join(policy.operations)}; that of epoch {epochs[-1]} has {stages} of {', '.join(names)}. "
                "They are of different runs: remove those that do not belong here."
            )
    values = {name: torch.stack([policy.values()[name] for _, policy in policies]).double() for name in _HEADINGS}
    without = torch.tensor([operation.identity == operation.strongest for operation in table])
    values["mu"] = values["mu"].masked_fill(without, math.nan)  # (E, K, N)

    panel = max(2.75, 0.19 * len(names))
    longer = max(0.0, 0.08 * (max(map(len, names)) - 12))  # by the width of a letter, on both sides
    figure = new_figure(12 + 2 * longer, _TOP + stages * (panel + _GAP) - _GAP + _BOTTOM)
    marked = first_update is not None and epochs[0] < first_update < epochs[-1]
    note = "; dotted line: first update" if marked else ""
    times = f"after epochs {epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"after epoch {epochs[0]}"
    add_title(figure, f"The policy while it is learned: {label}", f"{times}; numbers: the last epoch's{note}", 0.15)
    limits = {name: _deviation(values[name]) for name in _MAP_LEFTS}
    for stage in range(stages):
        top = _TOP + stage * (panel + _GAP)
        last = stage == stages - 1
        axes = [add_axes(figure, _AREAS_LEFT, top, _AREAS_WIDTH, panel)]
        _draw_areas(axes[0], epochs, values["pi"][:, stage], names, panel)
        axes[0].set_ylabel(f"stage {stage + 1}", size=10, weight="bold")
        if marked:
            axes[0].axvline(first_update, color="black", lw=1.2, ls=":")
        for name, left in _MAP_LEFTS.items():
            left += 2 * longer
            axes.append(add_axes(figure, left, top, _MAP_WIDTH, panel))
            shown = values[name][:, stage]
            heat = _draw_map(axes[-1], epochs, shown, limits[name])
            if name == "mu":
                axes[-1].set_yticks(range(len(names)), names, size=8)
            if last:
                bar = add_axes(figure, left, top + panel + 0.56, _MAP_WIDTH, 0.1)
                low, high = 0.5 - limits[name], 0.5 + limits[name]
                figure.colorbar(heat, cax=bar, orientation="horizontal", ticks=[low, 0.5, high], format="%.2f")
                bar.tick_params(labelsize=8, length=2)
        for one, heading in zip(axes, _HEADINGS.values(), strict=True):
            whole_numbers(one.xaxis, 10 if one is axes[0] else 6)
            one.tick_params(axis="x", labelsize=8)
            if stage == 0:
                one.set_title(heading, size=10, weight="bold", loc="left")
            if last:
                one.set_xlabel("epoch", size=9)
    return figure


def _deviation(values: Tensor) -> float:
    """How far from 0.5 the colours reach: as far as the values, in steps of 0.05."""
    furthest = float((values - 0.5).abs().nan_to_num().max())
    return min(0.5, max(1, math.ceil(furthest / 0.05 - 1e-6)) * 0.05)


def _draw_areas(axes: Axes, epochs: Sequence[int], pi: Tensor, names: Sequence[str], height: float) -> None:
    """Stacked areas of ``pi`` (E, N), the first operation on top, with a label each at the right edge."""
    x: Sequence[float] = epochs
    if len(epochs) == 1:  # an area needs a width
        x, pi = boundaries(epochs), pi.expand(2, -1)
    colours = area_colours(names)
    axes.stackplot(x, pi.T.flip(0).numpy(), colors=colours[::-1], edgecolor="white", lw=0.5)
    axes.set(xlim=(x[0], x[-1]), ylim=(0, 1))
    axes.tick_params(axis="y", labelsize=8)
    last = pi[-1].flip(0)
    centres = (last.cumsum(0) - last / 2).tolist()
    places = spread([c * height for c in centres], _LABEL_PITCH, height)
    inch = 1 / _AREAS_WIDTH  # in the axes' own units
    for centre, place, n in zip(centres, places, reversed(range(len(names))), strict=True):
        y = place / height
        line = [1, 1 + 0.06 * inch, 1 + 0.2 * inch, 1 + 0.26 * inch]
        axes.plot(
            line, [centre, centre, y, y], color=colours[n], lw=1, clip_on=False, transform=axes.transAxes, zorder=0
        )
        axes.plot(
            1 + 0.32 * inch, y, marker="s", ms=7, color=colours[n], mew=0, clip_on=False, transform=axes.transAxes
        )
        text = f"{names[n]}  {float(pi[-1, n]):.2f}"
        axes.text(1 + 0.42 * inch, y, text, size=8, va="center", transform=axes.transAxes)


def area_colours(names: Sequence[str]) -> list[str]:
    """A colour an operation: the same in every picture for the paper's fourteen, what is left for others."""
    own = dict(zip(PAPER_OPERATIONS, AREAS, strict=True))
    free = itertools.cycle([own[name] for name in PAPER_OPERATIONS if name not in names] or AREAS)
    return [own[name] if name in own else next(free) for name in names]


def _draw_map(axes: Axes, epochs: Sequence[int], values: Tensor, deviation: float) -> Axes:
    """Values (E, N) as colours, operations from top to bottom; the last column in numbers beside it."""
    edges, size = boundaries(epochs), values.shape[1]
    heat = axes.pcolormesh(
        edges,
        [n - 0.5 for n in range(size + 1)],
        values.T.numpy(),
        cmap=_MAP,
        vmin=0.5 - deviation,
        vmax=0.5 + deviation,
    )
    axes.set(ylim=(size - 0.5, -0.5), yticks=[], facecolor="0.85")
    for n in range(1, size):
        axes.axhline(n - 0.5, color="white", lw=0.8)
    for n, value in enumerate(values[-1].tolist()):
        text = "–" if math.isnan(value) else f"{value:.2f}"
        axes.annotate(
            text, (1, n), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", size=8,
            va="center",
        )  # fmt: skip
    return heat


def spread(wanted: Sequence[float], pitch: float, end: float) -> list[float]:
    """Places for labels, as near to the wanted ones (increasing) as a distance of ``pitch`` between them allows.

    They end at ``end``, and begin below 0 only when there is not enough room.
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + pitch) if places else max(place, pitch / 2))
    limit = end - pitch / 2
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - pitch
    return places
