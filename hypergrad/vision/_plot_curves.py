"""Losses and errors of one run, or of several over each other, by epoch."""

from collections.abc import Sequence

from hypergrad.files import Field
from hypergrad.vision._plot import LINES, Axes, Figure, add_axes, add_title, counts, new_figure, numbers, whole_numbers
from hypergrad.vision.run import Recorded


def learning_curves(runs: Sequence[Recorded], labels: Sequence[str]) -> Figure:
    """Losses above, errors below; with several runs a legend of them under both.

    Args:
        runs: at most as many as there are colours, each with an epoch.
        labels: one a run.

    Raises:
        InvalidInputError: a record lacks a number.
    """
    single = len(runs) == 1
    figure = new_figure(8, 7.3 + (0 if single else 0.15 + 0.22 * len(runs)))
    losses, errors = add_axes(figure, 0.8, 1.05, 6.95, 2.7), add_axes(figure, 0.8, 4.15, 6.95, 2.55)
    most = max(counts(run.path, "epoch", run.epochs, "epoch")[-1] for run in runs)
    marker = "." if most <= 60 else ""
    handles, names = [], []
    for run, label, colour in zip(runs, labels, LINES, strict=False):
        columns = {
            name: numbers(run.path, "epoch", run.epochs, name) for name in ("train_loss", "val_loss", "val_error")
        }
        epochs = counts(run.path, "epoch", run.epochs, "epoch")
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
        names.append(f"{label}: {text} after epoch {epochs[-1]}" + ("" if run.result is not None else ", not finished"))
    if single:
        add_title(figure, "Learning curves", names[0], 0.15)
    else:
        add_title(figure, "Learning curves of several runs", f"{len(runs)} runs, one colour each", 0.15)
        figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.02, 0.01), frameon=False, fontsize=9)
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
        axes.set_ylim(0, 1.03 * axes.get_ylim()[1])
        axes.set_xlim(0, most + max(0.02 * most, 0.3))
        axes.grid(color="0.88")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        whole_numbers(axes.xaxis)
    losses.tick_params(labelbottom=False)
    return figure


def _legend(axes: Axes, entries: Sequence[tuple[str, str, str, str]]) -> None:
    """Name, colour, line style and marker of each, above the upper right corner, where no curve is."""
    lines = [axes.plot([], [], color=c, ls=style, marker=m, mec="white", lw=1.6)[0] for _, c, style, m in entries]
    names = [entry[0] for entry in entries]
    axes.legend(
        lines, names, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2, frameon=False, fontsize=9
    )


def _test_error(run: Recorded) -> float | None:
    """In percent; None for a run that is not finished, or had no test images."""
    if run.result is None:
        return None
    test = Field(str(run.path / "result.json"), "", run.result).member("test")
    return None if test.value is None else test.member("error").number(0, 100)
