"""A policy as one picture: what it does to images, each operation by magnitude, and its pi, mu and p.

Everything comes in as plain tensors and callables, so that any policy can be drawn. Positions are in inches: the
figure grows with the number of operations, and nothing is left to an automatic layout.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergrad import keys
from hypergrad.augment.checks import check_images
from hypergrad.augment.operations import Operation
from hypergrad.errors import InvalidInputError
from hypergrad.files import Pathlike, write_atomically
from hypergrad.optional import require

#: A figure and axes of matplotlib; not named by their types, because matplotlib is optional.
Figure = Any
Axes = Any

#: What a file needs, beside the picture, to be the same bytes every time.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_MAGNITUDES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Okabe and Ito's colours, told apart by everyone; a stage takes the next one.
_STAGE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_HEADINGS = {
    "pi": ("π", "probability of\nthe pick"),
    "mu": ("μ", "magnitude"),
    "p": ("p", "probability of\nthe application"),
}
_MOST_ORIGINALS = 8
_MAP = "viridis"
_GAP = 0.06  # between two images


def draw_policy(
    images: Tensor,
    draw: Callable[[Tensor, int], Tensor],
    operations: Sequence[Operation],
    values: Mapping[str, Tensor],
    *,
    title: str,
    path: Pathlike | None = None,
    key: int = 0,
    samples: int | None = None,
) -> Figure:
    """The picture of a policy with K stages over N operations.

    On the left the originals, and below each what hard draws of the policy make of it. In the middle each operation
    on the first image, by magnitude; those with a random sign at -1, too. Triangles mark the policy's own magnitudes.
    On the right pi, mu and p by operation and stage.

    Args:
        images: ``(B, C, H, W)``, floats in [0, 1], 1 or 3 channels; the first eight are shown.
        draw: ``(images, key) -> images``, one draw of the whole policy.
        operations: N of them.
        values: "pi", "mu" and "p", each ``(K, N)``, in [0, 1]; NaN for what has no value.
        title: of the whole picture.
        path: where to write it, by suffix as PNG, SVG or PDF; None: it is not written. A file appears as a whole or
            not at all, and the same arguments give the same bytes.
        key: of the draws.
        samples: how many draws of each image; None: as many as fit beside the operations.

    Returns:
        The ``matplotlib.figure.Figure``, which a notebook shows; pyplot does not know of it.

    Raises:
        InvalidInputError: no images, images that cannot be used or shown, samples below 1, or a path of another
            suffix or in a folder that does not exist.
        MissingLibraryError: matplotlib cannot be imported.
    """
    suffix = "" if path is None else Path(path).suffix.lower()
    if path is not None and suffix not in _METADATA:
        raise InvalidInputError(
            f"A preview is written as {', '.join(_METADATA)}, by the path's suffix; got {str(path)!r}."
        )
    check_images(images)
    if images.numel() == 0:
        raise InvalidInputError(f"A preview needs at least one image; got the shape {tuple(images.shape)}.")
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 1):
        raise InvalidInputError(f"samples must be an integer of at least 1; got {samples!r}. Leave it out to fill up.")
    style = require("matplotlib.style", "A preview", "plot")
    figures = require("matplotlib.figure", "A preview", "plot")
    agg = require("matplotlib.backends.backend_agg", "A preview", "plot")
    images = images.detach()[:_MOST_ORIGINALS]
    stages = len(values["pi"])
    sheet = _Sheet(images, operations, stages, samples)
    with torch.no_grad():
        draws = [draw(images, keys.derive("preview", key, row)) for row in range(sheet.samples)]
        rows = [_at_magnitudes(operation, images[:1]) for operation in operations]
    without = torch.tensor([_no_magnitude(operation) for operation in operations], device=values["mu"].device)
    values = {**values, "mu": values["mu"].masked_fill(without, math.nan)}
    with style.context("default"):  # whatever the user's own style is
        figure = figures.Figure(figsize=(sheet.width, sheet.height), dpi=100, facecolor="white")
        agg.FigureCanvasAgg(figure)
        figure.text(0.3 / sheet.width, 1 - 0.34 / sheet.height, title, size=14, weight="bold", va="center")
        _draw_samples(figure, sheet, [images, *draws])
        _draw_operations(figure, sheet, operations, rows, values["mu"])
        for position, name in enumerate(_HEADINGS):
            _draw_values(figure, sheet, position, name, values[name])
        if path is not None:
            write_atomically(path, _encode(figure, suffix))
    return figure


def stage_means(pi: Tensor, p: Tensor, mu: Tensor) -> dict[str, Tensor]:
    """Values by stage and operation, ``(K, N)``, of S equally likely sub-policies.

    pi is averaged over the sub-policies, p and mu over the picks; they are NaN for an operation that is never picked.

    Args:
        pi: probability of each pick, ``(S, K, N)``.
        p: probability that the pick is applied, ``(S, K, N)``.
        mu: L equally likely magnitudes, ``(S, K, N, L)``.
    """
    total = pi.sum(0)
    return {"pi": pi.mean(0), "mu": (pi * mu.mean(-1)).sum(0) / total, "p": (pi * p).sum(0) / total}


class _Sheet:
    """Where everything is, in inches from the lower left corner of the figure."""

    def __init__(self, images: Tensor, operations: Sequence[Operation], stages: int, samples: int | None) -> None:
        height, width = images.shape[2:]
        aspect = width / height
        self.columns, self.operations, self.stages = len(images), len(operations), stages
        # One row an operation: an image, and below it the triangles.
        self.cell_height = min(0.46, 0.8 / aspect)
        self.cell_width = self.cell_height * aspect
        self.pitch = max(self.cell_height + 0.14, 0.52)
        body = self.pitch * self.operations
        # Samples: the images of a row share the width, within reason.
        self.sample_width = min(3.7 / self.columns, 0.75) - _GAP
        self.sample_height = self.sample_width / aspect
        if self.sample_height > 0.75:
            self.sample_height, self.sample_width = 0.75, 0.75 * aspect
        step = self.sample_height + _GAP
        self.samples = samples if samples is not None else max(3, int((body - 0.12) / step) - 1)
        self.body = max(body + 0.7, step * (self.samples + 1) + 0.12)  # 0.7: the colour bars
        self.top = 0.95  # of the body, from the figure's upper edge
        self.height = self.top + self.body + 0.25
        self.samples_left = 0.55
        samples_right = self.samples_left + max(self.columns * (self.sample_width + _GAP), 1.2)
        # By the width of a letter: matplotlib measures a text only once it is drawn.
        labels = max(max(0.09 * len(o.name), 0.068 * len(_amounts(o))) for o in operations)
        self.grid_left = samples_right + max(1.35, labels + 0.2)
        self.grid_width = max((len(_MAGNITUDES) + 1) * (self.cell_width + _GAP) + 0.14, 2.5)
        self.values_left = self.grid_left + self.grid_width + 0.4
        self.value_width = max(0.4 * stages, 0.8)
        self.width = self.values_left + 3 * (self.value_width + 0.2) + 0.1

    def axes(self, figure: Figure, left: float, width: float, height: float) -> Axes:
        """Axes whose upper edge is the body's, with one unit an inch, y downwards, and nothing but what is drawn."""
        lower = self.height - self.top - height
        axes = figure.add_axes((left / self.width, lower / self.height, width / self.width, height / self.height))
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], facecolor="none")
        axes.spines[:].set_visible(False)
        return axes


def _at_magnitudes(operation: Operation, image: Tensor) -> list[Tensor | None]:  # six of (C, H, W)
    """The image at magnitude 1 with sign -1, then at each magnitude; None where that is no setting of its own."""
    magnitude = torch.tensor([1.0, *_MAGNITUDES], device=image.device)
    sign = torch.tensor([-1.0] + [1.0] * len(_MAGNITUDES), device=image.device)
    result = operation(image.expand(len(magnitude), -1, -1, -1), magnitude, sign)
    if _no_magnitude(operation):
        return [None] * len(_MAGNITUDES) + [result[-1]]
    return [None if i == 0 and not operation.signed else shown for i, shown in enumerate(result)]


def _no_magnitude(operation: Operation) -> bool:
    return operation.identity == operation.strongest


def _show(axes: Axes, image: Tensor, left: float, top: float, width: float, height: float) -> None:
    """One image ``(C, H, W)``."""
    channels, rows, columns = image.shape
    if channels not in (1, 3):
        raise InvalidInputError(
            f"A preview shows images with 1 or 3 channels; got {channels}. Select some, e.g. images[:, :1]."
        )
    pixels = image.float().cpu().permute(1, 2, 0).numpy()
    small = max(rows, columns) <= 32
    axes.imshow(
        pixels[..., 0] if channels == 1 else pixels,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(left, left + width, top + height, top),
        interpolation="nearest" if small else "antialiased",
        aspect="auto",
    )


def _draw_samples(figure: Figure, sheet: _Sheet, rows: Sequence[Tensor]) -> None:
    width, height = sheet.sample_width, sheet.sample_height
    axes = sheet.axes(figure, sheet.samples_left, sheet.columns * (width + _GAP), sheet.body)
    limits = axes.get_xlim(), axes.get_ylim()
    for r, batch in enumerate(rows):
        top = r * (height + _GAP) + (0.12 if r else 0)  # a gap below the originals
        for c, image in enumerate(batch):
            _show(axes, image, c * (width + _GAP), top, width, height)
    axes.set(xlim=limits[0], ylim=limits[1])
    middle = 0.12 + (height + _GAP) * (1 + (len(rows) - 1) / 2)
    axes.text(-0.1, height / 2, "original", rotation=90, ha="right", va="center", size=8)
    axes.text(-0.1, middle, "draws", rotation=90, ha="right", va="center", size=8)
    _head(axes, 0, "What the policy does")


def _draw_operations(
    figure: Figure, sheet: _Sheet, operations: Sequence[Operation], rows: Sequence[Sequence[Tensor | None]], mu: Tensor
) -> None:
    width, height, step = sheet.cell_width, sheet.cell_height, sheet.cell_width + _GAP
    axes = sheet.axes(figure, sheet.grid_left, sheet.grid_width, sheet.body)
    limits = axes.get_xlim(), axes.get_ylim()
    lefts = [0.0, *(0.14 + step * (i + 1) for i in range(len(_MAGNITUDES)))]  # a gap beside the negative ones
    first, last = lefts[1] + width / 2, lefts[-1] + width / 2  # where magnitudes 0 and 1 are
    for r, (operation, row) in enumerate(zip(operations, rows, strict=True)):
        top = r * sheet.pitch
        for left, image in zip(lefts, row, strict=True):
            if image is not None:
                _show(axes, image, left, top, width, height)
        axes.text(-0.1, top + height / 2 - 0.02, operation.name, ha="right", va="bottom", size=9, weight="bold")
        axes.text(-0.1, top + height / 2 + 0.02, _amounts(operation), ha="right", va="top", size=7.5, color="0.3")
        if not _no_magnitude(operation):
            axes.plot((first, last), (top + height + 0.07,) * 2, color="0.8", lw=0.8)
        for k, magnitudes in enumerate(mu.tolist()):
            if not math.isnan(magnitudes[r]):
                _mark(axes, first + magnitudes[r] * (last - first), top + height + 0.07, k)
    axes.set(xlim=limits[0], ylim=limits[1])
    for left, shown in zip(lefts, ("−1", *(f"{m:g}" for m in _MAGNITUDES)), strict=True):
        axes.text(left + width / 2, -0.06, shown, ha="center", va="bottom", size=8)
    _head(axes, 0, "Each operation, by magnitude")
    axes.text(-0.1, -0.06, "sign × magnitude:", ha="right", va="bottom", size=8)
    below = sheet.pitch * sheet.operations + 0.2
    axes.text(first + 0.1, below, "μ of stage", ha="right", va="center", size=8)
    for k in range(len(mu)):
        _mark(axes, first + 0.25 + 0.3 * k, below, k)
        axes.text(first + 0.33 + 0.3 * k, below, f"{k + 1}", ha="left", va="center", size=8)


def _mark(axes: Axes, x: float, y: float, stage: int) -> None:
    """A triangle; later stages' are smaller, so that equal magnitudes show as one inside the other."""
    colour, size = _STAGE_COLOURS[stage % len(_STAGE_COLOURS)], max(9.0 - 3.5 * stage, 2.5)
    axes.plot(x, y, marker="^", ms=size, color=colour, mec="white", mew=0.4, clip_on=False, zorder=3)


def _draw_values(figure: Figure, sheet: _Sheet, position: int, name: str, values: Tensor) -> None:
    """A heat map of one of pi, mu and p, beside the operations' rows, with its colour bar below."""
    left = sheet.values_left + position * (sheet.value_width + 0.2)
    rows = sheet.pitch * sheet.operations
    axes = sheet.axes(figure, left, sheet.value_width, rows)
    shown = values.detach().float().cpu().T.numpy()  # (N, K)
    highest = min(1.0, max(float(values.nan_to_num().max()), 2 / sheet.operations)) if name == "pi" else 1.0
    heat = axes.imshow(shown, cmap=_MAP, vmin=0, vmax=highest, aspect="auto", extent=(0, sheet.value_width, rows, 0))
    cell = sheet.value_width / sheet.stages
    for r, row in enumerate(shown.tolist()):
        for k, value in enumerate(row):
            x, y = (k + 0.5) * cell, (r + 0.5) * sheet.pitch
            if math.isnan(value):
                axes.text(x, y, "–", ha="center", va="center", size=7.5, color="0.3")
                continue
            # White where the cell's relative luminance makes it the one with more contrast (WCAG 2.1).
            red, green, blue, _ = heat.cmap(heat.norm(value))
            dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", size=7.5, color="white" if dark else "black")
    for k in range(1, sheet.stages):
        axes.axvline(k * cell, color="white", lw=1)
    for r in range(1, sheet.operations):
        axes.axhline(r * sheet.pitch, color="white", lw=1)
    for k in range(sheet.stages):
        axes.text((k + 0.5) * cell, -0.06, f"{k + 1}", ha="center", va="bottom", size=8)
    if position == 0:
        axes.text(-0.08, -0.06, "stage", ha="right", va="bottom", size=8)
    symbol, meaning = _HEADINGS[name]
    _head(axes, sheet.value_width / 2, symbol, ha="center")
    # Below the rows: the axes' upper edge is where the others' lower one is.
    bar = figure.add_axes(
        (
            left / sheet.width,
            1 - (sheet.top + rows + 0.2) / sheet.height,
            sheet.value_width / sheet.width,
            0.1 / sheet.height,
        )
    )
    scale = figure.colorbar(heat, cax=bar, orientation="horizontal", ticks=[0, highest])
    for label, side in zip(bar.set_xticklabels(["0", f"{highest:.2g}"], size=7), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    bar.tick_params(length=2, pad=1)
    scale.outline.set_linewidth(0.5)
    scale.set_label(meaning, size=7.5)


def _head(axes: Axes, x: float, text: str, ha: str = "left") -> None:
    axes.text(x, -0.25, text, ha=ha, va="bottom", size=10, weight="bold")


def _amounts(operation: Operation) -> str:
    """What magnitudes 0 to 1 stand for, in the operation's unit."""
    first, last = operation.identity, operation.strongest
    if _no_magnitude(operation):
        return "no magnitude"
    digits = 2 - math.floor(math.log10(abs(last - first)))
    first, last, span = (round(v, digits) + 0.0 for v in (first, last, abs(last - first)))
    if not operation.signed:
        return f"{first:g} … {last:g} {operation.unit}".replace("-", "−")
    return f"{first:g} ± {span:g} {operation.unit}" if first else f"±{span:g} {operation.unit}"


def _encode(figure: Figure, suffix: str) -> bytes:
    matplotlib = require("matplotlib", "A preview", "plot")
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hypergrad"}):  # else SVG has random names inside
        figure.savefig(content, format=suffix[1:], metadata=_METADATA[suffix])
    return content.getvalue()
