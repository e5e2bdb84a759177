"""Pictures of a run from what it recorded: learning curves, the policy over time, the hypergradients, samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hypergrad.augment import FixedPolicy, Policy, load_policy
from hypergrad.augment.checks import check_images
from hypergrad.errors import InvalidInputError
from hypergrad.files import Field, Pathlike, write_atomically
from hypergrad.solvers.base import Status
from hypergrad.vision._plot import (
    LINES,
    Axes,
    Figure,
    add_axes,
    add_title,
    check_suffix,
    encode,
    log_scale,
    new_figure,
    numbers,
    plain_style,
    whole_numbers,
)
from hypergrad.vision._plot_policy import policy_history
from hypergrad.vision.run import Recorded, read_run

_FOLDER = "pictures"
_STATUS_COLOURS = {
    Status.CONVERGED.value: "#009e73",
    Status.TRUNCATED.value: "#0072b2",
    Status.MAX_STEPS.value: "#e69f00",
    Status.NEGATIVE_CURVATURE.value: "#cc79a7",
    Status.DIVERGED.value: "#d55e00",
    Status.NONFINITE.value: "#000000",
}
_NOTHING_SOLVED = "nothing solved"


def draw_run(path: Pathlike, images: Tensor | None = None) -> list[Path]:
    """Draw what a run recorded, finished or not, into its folder ``pictures``.

    ``learning_curves.png``: losses and error by epoch. ``policy.png``: pi, mu and p of a learned policy by epoch, as in
    Figures 3 to 5 of the paper (Hataya et al., WACV 2022). ``hypergradient.png``: norms, residuals and statuses of the
    policy's updates. ``samples.png``: what the final policy does to images. A picture that the run has nothing for is
    left out. The same records give the same bytes.

    Args:
        path: the run's folder.
        images: ``(B, C, H, W)``, floats in [0, 1], 1 or 3 channels, for the samples; the first eight are shown. None:
            no samples are drawn.

    Returns:
        The files that were written.

    Raises:
        InvalidInputError: no run, no epoch yet, a record that cannot be read, images that cannot be used, or a folder
            that cannot be written to. Nothing is written then.
        MissingLibraryError: matplotlib cannot be imported.
    """
    run = _read(path)
    label = _label(run)
    contents: dict[str, bytes] = {}
    with plain_style():
        contents["learning_curves.png"] = encode(_learning_curves([run], [label]), ".png")
        if run.policies:
            figure = policy_history(run.path, run.policies, label=label, first_update=_first_update(run))
            contents["policy.png"] = encode(figure, ".png")
        if run.updates:
            contents["hypergradient.png"] = encode(_hypergradients(run, label), ".png")
        if images is not None:
            check_images(images)
            policy = _final_policy(run)
            if policy is not None:
                contents["samples.png"] = encode(policy.preview(images.cpu()), ".png")
    folder = run.path / _FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"The folder {folder} cannot be made ({error.strerror}). Remove what has its name, or copy the run to a "
            "place that can be written to."
        ) from error
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def draw_comparison(paths: Sequence[Pathlike], output: Pathlike) -> None:
    """Draw the learning curves of several runs over each other, one colour a run, labelled by method.

    Args:
        paths: the runs' folders, at most seven.
        output: where to write it, by suffix as PNG, SVG or PDF.

    Raises:
        InvalidInputError: no run or too many, one that has no epoch or cannot be read, or a path that cannot be
            written.
        MissingLibraryError: matplotlib cannot be imported.
    """
    suffix = check_suffix(output)
    if not 1 <= len(paths) <= len(LINES):
        raise InvalidInputError(f"A comparison shows 1 to {len(LINES)} runs; got {len(paths)}. Make several pictures.")
    runs = [_read(path) for path in paths]
    labels = [_label(run) for run in runs]
    if len(set(labels)) < len(labels):  # the same method more than once: the folders tell them apart
        folders = [run.path.name for run in runs]
        if len(set(folders)) < len(folders):
            folders = [str(run.path) for run in runs]
        labels = [f"{label}, {_tail(folder)}" for label, folder in zip(labels, folders, strict=True)]
    with plain_style():
        content = encode(_learning_curves(runs, labels), suffix)
    write_atomically(output, content)


def _read(path: Pathlike) -> Recorded:
    run = read_run(Path(path))
    if not run.epochs:
        raise InvalidInputError(
            f"{run.path} has recorded no epoch, so there is nothing to draw. Wait until the first one is over."
        )
    return run


def _label(run: Recorded) -> str:
    """The method, with the solver and the control where it has them."""
    method = Field(str(run.path / "config.json"), "", run.config).member("method")
    name, rest = method.member("name").text(), []
    if name == "madao":
        rest.append(method.member("solver").text())
        control = method.value.get("control", "none")
        rest += [f"control: {control}"] if control != "none" else []
    return f"{name} ({', '.join(rest)})" if rest else name


def _tail(text: str) -> str:
    """The end of a text, as much as fits beside the rest of a legend's line."""
    return text if len(text) <= 30 else "…" + text[-29:]


def _test_error(run: Recorded) -> float | None:
    """In percent; None for a run that is not finished, or had no test images."""
    if run.result is None:
        return None
    test = Field(str(run.path / "result.json"), "", run.result).member("test")
    return None if test.value is None else test.member("error").number(0, 100)


def _first_update(run: Recorded) -> float | None:
    """In epochs."""
    if not run.updates:
        return None
    return numbers(run.path, "update", run.updates[:1], "inner_step")[0] / _steps_per_epoch(run)


def _steps_per_epoch(run: Recorded) -> float:
    last = Field(str(run.path / "metrics.jsonl"), "the last epoch record", run.epochs[-1])
    return last.member("step").integer(1) / last.member("epoch").integer(1)


def _final_policy(run: Recorded) -> Policy | FixedPolicy | None:
    """What the run ended with, or the last that it recorded; None where it has none."""
    file = run.path / "policy.json"
    if not file.is_file():
        return run.policies[-1][1] if run.policies else None
    return load_policy(file)


def _learning_curves(runs: Sequence[Recorded], labels: Sequence[str]) -> Figure:
    """Losses above, errors below; with several runs a legend of them under both."""
    single = len(runs) == 1
    figure = new_figure(8, 7.1 + (0 if single else 0.15 + 0.22 * len(runs)))
    losses, errors = add_axes(figure, 0.8, 0.95, 6.95, 2.75), add_axes(figure, 0.8, 3.95, 6.95, 2.55)
    most = max(len(run.epochs) for run in runs)
    marker = "." if most <= 60 else ""
    handles, names = [], []
    for run, label, colour in zip(runs, labels, LINES, strict=False):
        columns = {
            name: numbers(run.path, "epoch", run.epochs, name)
            for name in ("epoch", "train_loss", "val_loss", "val_error")
        }
        epochs = columns["epoch"]
        losses.plot(epochs, columns["train_loss"], color=colour, lw=1.2, ls=(0, (4, 2)), marker=marker, ms=4)
        losses.plot(epochs, columns["val_loss"], color=colour, lw=1.6, marker=marker, ms=5)
        (line,) = errors.plot(epochs, columns["val_error"], color=colour, lw=1.6, marker=marker, ms=5)
        test = _test_error(run)
        text = f"validation {columns['val_error'][-1]:.2f} %"
        if test is not None:
            errors.axhline(test, color=colour, lw=0.9, ls=":")
            errors.plot(
                epochs[-1], test, marker="D", ms=7, color=colour, mec="white", mew=0.8, clip_on=False, zorder=3, ls=""
            )
            text += f", test {test:.2f} %"
        handles.append(line)
        names.append(f"{label}: {text} after epoch {epochs[-1]:.0f}" + ("" if run.result else ", not finished"))
    if single:
        add_title(figure, "Learning curves", names[0], 0.15)
    else:
        add_title(figure, "Learning curves of several runs", f"{len(runs)} runs, one colour each", 0.15)
        figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.09, 0.01), frameon=False, fontsize=9)
    shade = LINES[0] if single else "0.35"
    _legend(losses, [("training (augmented images)", shade, "--", ""), ("validation", shade, "-", "")])
    entries = [("validation", shade, "-", "")]
    if any(_test_error(run) is not None for run in runs):
        entries.append(("test, network at the end", shade, ":", "D"))
    _legend(errors, entries)
    losses.set_ylabel("cross-entropy", size=10)
    errors.set_ylabel("error (%)", size=10)
    errors.set_xlabel("epoch", size=10)
    for axes in (losses, errors):
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, max(float(run.epochs[-1]["epoch"]) for run in runs))
        axes.grid(color="0.88")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        whole_numbers(axes.xaxis)
    losses.tick_params(labelbottom=False)
    return figure


def _legend(axes: Axes, entries: Sequence[tuple[str, str, str, str]]) -> None:
    """Name, colour, line style and marker, in the upper right corner, which falling curves leave free."""
    lines = [axes.plot([], [], color=c, ls=style, marker=m, mec="white", lw=1.6)[0] for _, c, style, m in entries]
    axes.legend(lines, [entry[0] for entry in entries], loc="upper right", fontsize=9, framealpha=0.9)


def _hypergradients(run: Recorded, label: str) -> Figure:
    """Norms, residuals and statuses over inner steps."""
    steps = np.array(numbers(run.path, "update", run.updates, "inner_step"))
    norms, residuals = (np.array(numbers(run.path, "update", run.updates, n)) for n in ("grad_norm", "residual"))
    statuses = [_status(run, i) for i in range(len(run.updates))]
    seen = [name for name in (*_STATUS_COLOURS, _NOTHING_SOLVED) if name in statuses]
    figure = new_figure(9, 6.75 + 0.3 * len(seen))
    crosses = "" if np.isfinite(norms).all() else "; crosses: not finite, so that update was not made"
    add_title(figure, f"The policy's hypergradients: {label}", f"{len(steps)} updates{crosses}", 0.15)
    rows = {
        "norm of the\nhypergradient": add_axes(figure, 2.0, 1.35, 6.7, 2.3),
        "relative residual\nof the solve": add_axes(figure, 2.0, 3.85, 6.7, 1.9),
        "": add_axes(figure, 2.0, 5.95, 6.7, 0.1 + 0.3 * len(seen)),
    }
    axes = list(rows.values())
    end = max(float(steps[-1]), _steps_per_epoch(run) * len(run.epochs))
    for name, one in rows.items():
        one.set_xlim(0, end * 1.01)
        one.grid(color="0.88")
        one.set_axisbelow(True)
        one.set_ylabel(name, size=10)
        one.tick_params(labelbottom=one is axes[-1])
    _scatter(axes[0], steps, norms)
    if np.isfinite(residuals).any():
        _scatter(axes[1], steps, residuals)
    else:
        axes[1].set_yticks([])
        axes[1].text(0.5, 0.5, "no residuals were recorded", transform=axes[1].transAxes, ha="center", color="0.35")
    for row, name in enumerate(seen):
        at = steps[[status == name for status in statuses]]
        axes[2].eventplot(at, lineoffsets=row, linelengths=0.7, lw=1.2, color=_STATUS_COLOURS.get(name, "0.4"))
    counts = [f"{name.replace('_', ' ')}: {statuses.count(name)}" for name in seen]
    axes[2].set_yticks(range(len(seen)), counts, size=9)
    axes[2].set_ylim(len(seen) - 0.4, -0.6)
    axes[2].set_xlabel("inner steps", size=10)
    per_epoch = _steps_per_epoch(run)
    upper = axes[0].secondary_xaxis("top", functions=(lambda x: x / per_epoch, lambda x: x * per_epoch))
    upper.set_xlabel("epochs", size=10)
    whole_numbers(upper.xaxis)
    return figure


def _status(run: Recorded, index: int) -> str:
    field = Field(str(run.path / "metrics.jsonl"), f"update record {index + 1}", run.updates[index]).member("status")
    return _NOTHING_SOLVED if field.value is None else field.one_of(*_STATUS_COLOURS)


def _scatter(axes: Axes, steps: Any, values: Any) -> None:
    """Values on a logarithmic scale if all are positive; crosses at the bottom where there is no finite one."""
    finite = np.isfinite(values)
    shown = values[finite]
    axes.plot(steps[finite], shown, color=LINES[0], lw=0.8, marker=".", ms=4)
    if len(shown) and (shown > 0).all():
        log_scale(axes, float(shown.min()), float(shown.max()))
    axes.plot(
        steps[~finite], [0.05] * int((~finite).sum()), "x", color=LINES[1], ms=6, mew=1.6,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
