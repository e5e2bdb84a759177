"""Markdown and bar chart of the augmentation benchmark, from its JSON alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _augment_ways import (
    HARD,
    HARD_ALWAYS,
    KORNIA_CHUNKS,
    KORNIA_IMAGES,
    KORNIA_ONE,
    KORNIA_TWO,
    PILLOW_FLOAT,
    RAND,
    SOFT,
    SOFT_GRADIENT,
    sum_name,
)

Results = dict[str, Any]
#: Okabe and Ito's colours, which the colour-blind can tell apart, by group of rows.
COLOURS = {
    "hypergrad, hard": "#0072B2",
    "hypergrad, soft": "#56B4E9",
    "kornia": "#E69F00",
    "sum of all": "#D55E00",
    "Pillow": "#999999",
}


@dataclass(frozen=True)
class Ratio:
    """A ratio of two rows' times, and what was wanted of it.

    Attributes:
        top, bottom: names of rows.
        at_most, at_least: the target, where there is one.
    """

    top: str
    bottom: str
    at_most: float | None = None
    at_least: float | None = None

    def target(self) -> str:
        """As the table shows it."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"

    def verdict(self, value: float) -> str:
        """Whether a value meets the target."""
        if self.at_most is None and self.at_least is None:
            return ""
        met = (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)
        return "met" if met else "NOT met"


RATIOS = (
    Ratio(HARD, KORNIA_TWO, at_most=1.3),
    Ratio(HARD_ALWAYS, KORNIA_TWO, at_most=1.3),
    Ratio(RAND, KORNIA_TWO),
    Ratio(HARD, KORNIA_ONE, at_most=1.3),
    Ratio(HARD_ALWAYS, KORNIA_ONE, at_most=1.3),
    Ratio(KORNIA_CHUNKS, HARD_ALWAYS),
    Ratio(KORNIA_IMAGES, HARD, at_least=10),
    Ratio(KORNIA_IMAGES, HARD_ALWAYS, at_least=10),
    Ratio(SOFT_GRADIENT, sum_name(2, True), at_most=0.5),
    Ratio(SOFT, sum_name(2, False)),
    Ratio(SOFT_GRADIENT, sum_name(1, True)),
    Ratio(PILLOW_FLOAT, HARD_ALWAYS),
)


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def milliseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def _time(cell: dict[str, float]) -> str:
    return "{} ({} to {})".format(*(milliseconds(cell[k]) for k in ("median", "q1", "q3")))


def tables(found: Results, judged: bool = True) -> list[str]:
    """Times, memory and ratios at one size, judged by their targets or not."""
    rows = [
        [name, _time(cell), str(found["calls"][name]), f"{found['peak_bytes'][name] / 2**20:.1f}"]
        for name, cell in found["times"].items()
    ]
    ratios = []
    for ratio in RATIOS:
        cell = found["ratios"].get(f"{ratio.top} / {ratio.bottom}")
        if cell is not None:
            shown = f"{cell['median']:.2f} ({cell['q1']:.2f} to {cell['q3']:.2f})"
            verdict = ratio.verdict(cell["of_means"]) if judged else ""
            ratios.append([ratio.top, ratio.bottom, shown, f"{cell['of_means']:.2f}", ratio.target(), verdict])
    return [
        f"## {found['size']}",
        "",
        f"Median and quartiles of {found['rounds']} interleaved rounds; a time is the mean of so many calls.",
        "",
        *_lines(["way", "ms", "calls a round", "peak MiB"], rows),
        "",
        *_lines(["time of", "over that of", "ratio by round", "ratio of means", "target", ""], ratios),
        "",
    ]


def markdown(results: Results) -> str:
    """The page."""
    setup, env = results["setup"], results["environment"]
    libraries = [f"{name} {env[name] or 'not installed'}" for name in ("torch", "kornia", "pillow")]
    cpu = f"{env['cpu']}, {setup['threads']} of {env['cores']} threads"
    memory = (
        "the allocator's peak" if setup["device"] == "cuda" else "tensor bytes alive at once; Pillow's are not seen"
    )
    kept = (
        "Freed memory stays in the process (`--keep-memory`)."
        if setup["keep_memory"]
        else "Freed memory goes back to the system as the C library decides, and fresh pages cost time; "
        "`--keep-memory` shows how much."
    )
    return "\n".join(
        [
            f"# Time to augment a batch ({setup['device']}){' (smoke run)' if setup['smoke'] else ''}",
            "",
            "Hard: no gradient. Soft: with a graph to the images, pi, mu and p; with gradient: backward to all four as "
            "well, from the mean of the output times fixed numbers. pi, mu and p are at their start (uniform, 0.5, "
            'p = 0.5), so a hard stage leaves half of the images alone; "always applied" has p = 1, as RandAugment '
            "and the Pillow loop have. kornia picks for a whole batch, a chunk or an image, the others for each image. "
            "The targets are judged by the ratio of the mean times, because a median hides rare costly draws. "
            + (kept if setup["device"] == "cpu" else ""),
            "",
            *(line for found in results["sizes"] for line in tables(found, not setup["smoke"])),
            f"float32; {setup['clock']}; memory: {memory}. {env.get('gpu', cpu)}, {', '.join(libraries)}, "
            f"Python {env['python']}, seed {setup['seed']}, commit {results['commit']}. "
            f"Made by `{results['command']}`.",
            "",
        ]
    )


def plot(results: Results, path: Path) -> None:
    """One panel a size, one bar a row, logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = results["sizes"]
    height = 0.32 * max(len(found["times"]) for found in sizes) + 1.6
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(3 + 4.5 * len(sizes), height), squeeze=False)
    for panel, (axis, found) in enumerate(zip(axes[0], sizes, strict=True)):
        names = list(found["times"])
        for at, name in enumerate(names):
            cell = found["times"][name]
            low, middle, high = (1e3 * cell[k] for k in ("q1", "median", "q3"))
            spread = [[middle - low], [high - middle]]
            axis.barh(at, middle, xerr=spread, color=COLOURS[found["groups"][name]], error_kw={"linewidth": 1})
            axis.text(1.1 * high, at, milliseconds(cell["median"]), va="center", fontsize=8)
        axis.set_xscale("log")
        left, right = axis.get_xlim()
        axis.set_xlim(left, 2.5 * right)  # room for the numbers
        axis.set_yticks(range(len(names)), names if panel == 0 else [""] * len(names), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("ms a batch (median; lines: quartiles)")
        axis.set_title(found["size"])
        axis.grid(axis="x", alpha=0.3)
    present = {group for found in sizes for group in found["groups"].values()}
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=c) for g, c in COLOURS.items() if g in present]
    figure.legend(handles, [g for g in COLOURS if g in present], loc="lower center", ncol=len(handles), fontsize=8)
    setup = results["setup"]
    threads = f", {setup['threads']} thread{'s' * (setup['threads'] > 1)}" if setup["device"] == "cpu" else ""
    figure.suptitle(
        f"Time to augment a batch, {results['environment'].get('gpu', setup['device'])}{threads}"
        + (", freed memory kept" if setup["keep_memory"] else "")
        + (" (smoke run)" if setup["smoke"] else "")
    )
    figure.tight_layout(rect=(0, 0.3 / height, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
