"""Pictures of tables 2 to 4: the test errors of every seed, and from the runs' records curves, policy and preview."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _runs import Cell, cell_path

from hypergrad.keys import derive
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.figures import draw_comparison, draw_run
from hypergrad.vision.run import Recorded
from hypergrad.vision.splits import make_splits

#: Blue and vermilion of the palette of Okabe and Ito, which differ for every kind of colour vision.
DOTS, MEAN = "#0072b2", "#d55e00"


def draw_errors(panels: Mapping[str, Mapping[str, Sequence[float]]], heading: str, path: Path) -> None:
    """A panel a network, a line a row: a dot for each seed and a bar at the mean; a row without numbers says so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = max(len(panel) for panel in panels.values())
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(7, len(panels) * (0.42 * rows + 1.0) + 0.5), squeeze=False, layout="constrained"
    )
    for axis, (name, panel) in zip(axes[:, 0], panels.items(), strict=True):
        for at, errors in enumerate(panel.values()):
            if not errors:
                axis.text(0.01, at, "not run, or failed", transform=axis.get_yaxis_transform(), va="center", fontsize=9)
                continue
            mean = sum(errors) / len(errors)
            axis.plot([mean], [at], "|", color=MEAN, markersize=20, markeredgewidth=2.5, zorder=1)
            # Seeds of equal error stand over each other, within the row.
            for error, count in Counter(round(error, 6) for error in errors).items():
                gap = min(0.18, 0.7 / count)
                places = [at + gap * (i - (count - 1) / 2) for i in range(count)]
                axis.plot([error] * count, places, "o", color=DOTS, markersize=6, markeredgecolor="white", zorder=2)
        axis.set_yticks(range(len(panel)), list(panel))
        axis.set_ylim(len(panel) - 0.5, -0.5)
        axis.set_title(name, loc="left", fontsize=10)
        axis.grid(axis="x", color="0.88")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1][0].set_xlabel("test error, % (dots: seeds; bar: their mean)")
    figure.suptitle(heading, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def draw_runs(
    output: Path, cells: Sequence[tuple[Cell, Mapping[str, Any]]], runs: Mapping[tuple[str, int], Recorded]
) -> list[tuple[str, Path]]:
    """Learning curves of the first seed's rows, and MADAO's policy with a preview; what each is, and the file.

    Args:
        output: folder of the study.
        cells: the cells that are drawn, one a network and row, with what names them.
        runs: what each recorded.
    """
    files = []
    for model in dict.fromkeys(key["model"] for _, key in cells):
        drawn = [(cell, key) for cell, key in cells if key["model"] == model and runs[cell.row, cell.seed].epochs]
        if not drawn:
            continue
        seed = drawn[0][0].seed
        curves = output / f"learning-curves-{cell_path(output, drawn[0][0]).name.rpartition('_')[0]}.png"
        draw_comparison([cell_path(output, cell) for cell, _ in drawn], curves)
        files.append((f"learning curves, seed {seed}", curves))
        for cell, key in drawn:
            if key["row"] == "madao":
                pictures = {path.stem: path for path in draw_run(cell_path(output, cell), _preview_images(cell.config))}
                files += [
                    (f"{what}, seed {seed}", pictures[name])
                    for name, what in (("policy", "policy over time"), ("samples", "policy preview"))
                    if name in pictures
                ]
    return files


def _preview_images(config: TrainConfig) -> torch.Tensor:  # (8, C, H, W), in [0, 1]
    """Training images, as the policy gets them, without the standard augmentation."""
    train = make_splits(config.data, derive(config.seed, "data")).train
    images = train.draw(torch.arange(min(8, len(train))))[0].float() / 255
    side = config.standard.resized_crop
    if side is not None:
        top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
        images = images[..., top : top + side, left : left + side]
    return images
