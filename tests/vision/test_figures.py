"""Pictures of a run: everything that was recorded is in them, broken records are named, and the bytes repeat."""

import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from hypergrad.augment import Policy, rand_augment
from hypergrad.augment.operations import PAPER_OPERATIONS
from hypergrad.errors import InvalidInputError, MissingLibraryError
from hypergrad.vision import figures
from hypergrad.vision._plot import AREAS, LINES, boundaries
from hypergrad.vision._plot_policy import area_colours, spread
from hypergrad.vision.figures import draw_comparison, draw_run
from hypergrad.vision.run import RunDirectory, read_run

STANDARD = {"name": "standard"}


def digits(count: int = 2) -> Tensor:  # (B, 1, 8, 8)
    return torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16


def make_run(
    path: Path,
    *,
    method: dict[str, Any] | None = None,
    epochs: int = 20,
    finished: bool = True,
    stages: int = 2,
    names: tuple[str, ...] = PAPER_OPERATIONS,
    speed: float = 1.0,
    residuals: bool = True,
    per_epoch: int = 50,
    every: int = 10,
) -> Path:
    """The folder that a run of so many epochs leaves: curves that fall, and a policy that drifts after 4 epochs."""
    method = {"name": "madao", "solver": "neumann", "control": "none"} if method is None else method
    run = RunDirectory.create(path, {"method": method, "epochs": epochs, "seed": 0})
    generator = torch.Generator().manual_seed(1)
    policy = Policy(stages, names)
    drift = {name: torch.randn(stages, len(names), generator=generator) for name in ("pi", "mu", "p")}
    learns, update = method["name"] == "madao", 0
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * per_epoch, epoch * per_epoch, every):
            if learns and step >= 0.2 * epochs * per_epoch:
                update += 1
                noise = float(torch.randn((), generator=generator))
                nonfinite = update in (12, 30)
                run.append(
                    {
                        "kind": "update",
                        "inner_step": step,
                        "outer_step": update,
                        "status": "nonfinite" if nonfinite else ("truncated", "diverged")[update % 9 == 5],
                        "residual": 0.3 * math.exp(0.5 * noise) if residuals and not nonfinite else None,
                        "grad_norm": math.nan if nonfinite else 0.02 * math.exp(0.7 * noise - 0.05 * epoch),
                    }
                )
        noise = float(torch.randn((), generator=generator))
        decay = math.exp(-0.2 * speed * epoch)
        run.append(
            {
                "kind": "epoch",
                "epoch": epoch,
                "step": epoch * per_epoch,
                "train_loss": 2.2 * decay + 0.25,
                "val_loss": 2 * decay + 0.15 + 0.03 * noise,
                "val_error": 75 * decay + 4 + 0.5 * noise,
            }
        )
        if learns:
            with torch.no_grad():
                for name, scale in (("pi", 0.12), ("mu", 0.05), ("p", 0.08)):
                    if epoch > 0.2 * epochs:
                        walk = torch.randn(stages, len(names), generator=generator)
                        getattr(policy, name).add_(scale * (drift[name] + 0.7 * walk))
            run.save_policy(policy, epoch)
    if finished:
        if learns:
            run.save_policy(policy)
        run.finish({"method": method["name"], "test": {"error": 4.6 / speed}})
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures by their titles, in place of their encoded files."""
    found: dict[str, Any] = {}

    def keep(figure: Any, suffix: str) -> bytes:
        title = figure.texts[0].get_text()
        found[title.split(":")[0]] = figure
        return b"a picture"

    monkeypatch.setattr(figures, "encode", keep)
    return found


CURVES, POLICY, UPDATES = "Learning curves", "The policy while it is learned", "The policy's hypergradients"


def change_line(run: Path, kind: str, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the n-th record of a kind; 0 is the first."""
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change([line for line in lines if line["kind"] == kind][number])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# Files


def test_the_pictures_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", residuals=False, stages=1, epochs=8)
    written = draw_run(run, digits().expand(-1, 3, -1, -1))
    wanted = ["learning_curves.png", "policy.png", "hypergradient.png", "samples.png"]
    assert written == [run / "pictures" / name for name in wanted]
    assert sorted((run / "pictures").iterdir()) == sorted(written)
    pictures = {path.name: decoded(path) for path in written}
    assert pictures["policy.png"].shape[1] == 1800
    for picture in pictures.values():
        height, width, _ = picture.shape
        assert 700 < width < 2000
        assert 700 < height < 2000
        share = (picture == 255).all(-1).mean()
        assert 0.2 < share < 0.97  # mostly paper, and not empty
        assert (picture[[0, -1]] == 255).all()  # nothing is cut off above and below
        assert (picture[:, [0, -1]] == 255).all()
    colours = np.unique(pictures["policy.png"].reshape(-1, 3), axis=0)
    areas = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in AREAS]
    assert set(areas) <= set(map(tuple, colours.tolist()))  # each operation is seen in its colour

    first = [path.read_bytes() for path in written]
    with matplotlib.rc_context({"font.size": 30, "text.color": "red", "savefig.facecolor": "blue", "savefig.dpi": 30}):
        draw_run(run, digits().expand(-1, 3, -1, -1))
    assert [path.read_bytes() for path in written] == first


def test_a_fixed_method_has_no_policy_to_follow(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = make_run(tmp_path / "standard", method=STANDARD)
    assert [path.name for path in draw_run(run, digits())] == ["learning_curves.png"]
    run = make_run(tmp_path / "randaugment", method={"name": "randaugment"})
    names = [name for name in PAPER_OPERATIONS if name != "Color"]
    rand_augment(operations=names).save(run / "policy.json")
    assert [path.name for path in draw_run(run, digits())] == ["learning_curves.png", "samples.png"]
    assert drawn["Fixed policy (stages"].texts[0].get_text() == "Fixed policy (stages: 2, operations: 13)"


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", epochs=3, finished=False, names=("Rotate", "Solarize"))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "epoch": 4, "train_lo')
    assert len(draw_run(run, digits())) == 4
    losses, errors = drawn[CURVES].axes
    assert [list(line.get_xdata()) for line in losses.lines[:2]] == [[1, 2, 3]] * 2
    assert not any(line.get_marker() == "D" for line in errors.lines)
    assert "after epoch 3, not finished" in drawn[CURVES].texts[1].get_text()
    # The samples are drawn under the last policy that was recorded.
    heat = drawn["Policy (stages"].axes[4].images[0]
    assert np.array_equal(np.asarray(heat.get_array()), read_run(run).policies[-1][1].values()["mu"].T.numpy())


# What is drawn is what was recorded


def test_learning_curves_hold_the_records(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run")
    change_line(run, "epoch", 2, lambda line: line.update(val_loss=None))
    draw_run(run)
    losses, errors = drawn[CURVES].axes
    epochs = read_run(run).epochs
    for line, name in zip((*losses.lines[:2], errors.lines[0]), ("train_loss", "val_loss", "val_error"), strict=True):
        assert list(line.get_xdata()) == list(range(1, 21))
        wanted = [math.nan if e[name] is None else e[name] for e in epochs]
        assert np.array_equal(line.get_ydata(), wanted, equal_nan=True)
    level, point = errors.lines[1:3]
    assert list(level.get_ydata()) == [4.6, 4.6]
    assert (list(point.get_xdata()), list(point.get_ydata()), point.get_marker()) == ([20], [4.6], "D")
    subtitle = drawn[CURVES].texts[1].get_text()
    assert subtitle == f"madao (neumann): validation {epochs[-1]['val_error']:.2f} %, test 4.60 % after epoch 20"


def test_the_policy_s_areas_and_maps_hold_its_values(tmp_path: Path, drawn: dict[str, Any]) -> None:
    names = ("Rotate", "Solarize", "Brightness")
    run = make_run(tmp_path / "run", names=names)
    draw_run(run)
    policies = read_run(run).policies
    values = {n: torch.stack([p.values()[n] for _, p in policies]).double() for n in ("pi", "mu", "p")}
    panels = [axes for axes in drawn[POLICY].axes if axes.get_ylim() != (0, 1) or axes.get_ylabel()]
    panels = [axes for axes in panels if axes.collections and axes.get_xlabel() in ("", "epoch")]
    maps = [axes for axes in panels if axes.get_ylim() != (0, 1)]
    areas = [axes for axes in panels if axes.get_ylabel().startswith("stage")]
    assert (len(maps), len(areas)) == (4, 2)
    for stage, name in itertools.product(range(2), ("mu", "p")):
        axes = maps[2 * stage + (name == "p")]
        (mesh,) = axes.collections
        assert np.allclose(np.asarray(mesh.get_array()), values[name][:, stage].T, atol=1e-12)
        texts = [text.get_text() for text in axes.texts]
        assert texts == [f"{v:.2f}" for v in values[name][-1, stage].tolist()]
        low, high = mesh.get_clim()
        furthest = float((values[name] - 0.5).abs().max())
        assert high - 0.5 == pytest.approx(0.5 - low)
        assert furthest <= high - 0.5 + 1e-9 < furthest + 0.05
    for stage, axes in enumerate(areas):
        # From the bottom: the last operation first, so that the first is on top, as in the maps.
        bottom = np.zeros(20)
        for n, band in zip(reversed(range(3)), axes.collections, strict=True):
            top = bottom + values["pi"][:, stage, n].numpy()
            corners = band.get_paths()[0].vertices
            wanted = {(e, round(y, 9)) for e, y in zip(range(1, 21), top, strict=True)}
            assert wanted <= {(x, round(y, 9)) for x, y in corners.tolist()}
            assert matplotlib.colors.same_color(band.get_facecolor()[0], AREAS[PAPER_OPERATIONS.index(names[n])])
            bottom = top
        texts = [text.get_text() for text in axes.texts]
        last = values["pi"][-1, stage].tolist()
        assert texts == [f"{names[n]}  {last[n]:.2f}" for n in (2, 1, 0)]
        marks = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert [list(line.get_xdata()) for line in marks] == [[4, 4]]  # the first update: step 200 of 50 an epoch


def test_updates_hold_the_records(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run")
    draw_run(run)
    norms, residuals, statuses = drawn[UPDATES].axes
    updates = read_run(run).updates
    for axes, name in ((norms, "grad_norm"), (residuals, "residual")):
        finite = [(u["inner_step"], u[name]) for u in updates if u[name] is not None]
        line, crosses = axes.lines
        assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == finite
        assert list(crosses.get_xdata()) == [u["inner_step"] for u in updates if u["status"] == "nonfinite"]
        assert axes.get_yscale() == "log"
        low, high = axes.get_ylim()
        assert low < min(v for _, v in finite)
        assert high > max(v for _, v in finite)
        assert len(crosses.get_xdata()) == 2
    labels = [label.get_text() for label in statuses.get_yticklabels()]
    assert labels == ["truncated: 69", "diverged: 9", "nonfinite: 2"]
    for events, name in zip(statuses.collections, ("truncated", "diverged", "nonfinite"), strict=True):
        assert sorted(events.get_positions()) == [u["inner_step"] for u in updates if u["status"] == name]
    assert drawn[UPDATES].texts[1].get_text() == "80 updates; crosses: not finite, and left out by the optimizer"


def test_updates_without_a_solve(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", residuals=False)
    for n in range(80):
        change_line(run, "update", n, lambda line: line.update(status=None, grad_norm=0.0))
    draw_run(run)
    norms, statuses = drawn[UPDATES].axes
    assert norms.get_yscale() == "linear"
    assert [label.get_text() for label in statuses.get_yticklabels()] == ["nothing solved: 80"]
    assert drawn[UPDATES].texts[1].get_text() == "80 updates; no residuals were recorded"


def test_a_run_of_nothing_but_failures(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", epochs=2, residuals=False)
    for n in range(len(read_run(run).updates)):
        change_line(run, "update", n, lambda line: line.update(grad_norm=None))
    for n in range(2):
        change_line(run, "epoch", n, lambda line: line.update(val_loss=None, train_loss=None))
    draw_run(run)
    drawn[UPDATES].canvas.draw()
    drawn[CURVES].canvas.draw()
    line, crosses = drawn[UPDATES].axes[0].lines
    assert (len(line.get_xdata()), len(crosses.get_xdata())) == (0, len(read_run(run).updates))


# Several runs


def test_a_comparison_has_one_colour_a_run(tmp_path: Path, drawn: dict[str, Any]) -> None:
    runs = [
        make_run(tmp_path / "a", method={"name": "madao", "solver": "cg", "control": "flipped"}),
        make_run(tmp_path / "b", method=STANDARD, speed=0.8),
        make_run(tmp_path / "c", method={"name": "randaugment"}, finished=False, epochs=9),
    ]
    draw_comparison(runs, tmp_path / "out.png")
    (figure,) = drawn.values()
    losses, errors = figure.axes
    labels = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert labels == ["madao (cg, control", "standard", "randaugment"]
    curves = [line for line in errors.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    assert [line.get_color() for line in curves] == list(LINES[:3])
    assert [len(line.get_xdata()) for line in curves] == [20, 20, 9]
    assert [line.get_color() for line in losses.lines[:6]] == [c for c in LINES[:3] for _ in range(2)]
    points = [line for line in errors.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert [line.get_color() for line in points] == list(LINES[:2])


@pytest.mark.parametrize(
    ("folders", "endings"),
    [
        (("one", "two"), ["one", "two"]),
        (("x/run", "y/run"), ["x/run", "y/run"]),
        (("a" * 40 + "1", "a" * 40 + "2"), ["…" + "a" * 22 + "1", "…" + "a" * 22 + "2"]),
    ],
)
def test_runs_of_one_method_are_told_apart(
    tmp_path: Path, drawn: dict[str, Any], folders: tuple[str, ...], endings: list[str]
) -> None:
    draw_comparison(
        [make_run(tmp_path / folder, method=STANDARD, epochs=2) for folder in folders], tmp_path / "out.svg"
    )
    (figure,) = drawn.values()
    for text, ending in zip(figure.legends[0].get_texts(), endings, strict=True):
        label = text.get_text().split(":")[0]
        assert label.startswith("standard, ")
        assert label.endswith(ending)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_a_comparison_repeats_byte_for_byte(tmp_path: Path, suffix: str, magic: bytes) -> None:
    run = make_run(tmp_path / "run", method=STANDARD, epochs=3)
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    draw_comparison([run], first)
    draw_comparison([run], str(second))
    assert first.read_bytes().startswith(magic)
    assert first.read_bytes() == second.read_bytes()


# Can be read


def overlaps(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts that touch, and texts that leave the page."""
    texts = []  # those that are drawn: matplotlib also makes labels beyond the ends of an axis
    with pytest.MonkeyPatch.context() as patch:
        draw = matplotlib.text.Text.draw
        patch.setattr(matplotlib.text.Text, "draw", lambda text, *args: (texts.append(text), draw(text, *args)))
        figure.canvas.draw()
    texts = [text for text in dict.fromkeys(texts) if text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert len(boxes) > 10
    found = [(a, b) for (a, x), (b, y) in itertools.combinations(boxes, 2) if x.overlaps(y)]
    page = figure.bbox
    inside = [x.x0 >= 0 and x.y0 >= 0 and x.x1 <= page.x1 and x.y1 <= page.y1 for _, x in boxes]
    return found + [(t, "the edge") for (t, _), fits in zip(boxes, inside, strict=True) if not fits]


CASES: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "one epoch": {"epochs": 1},
    "two operations, three stages": {"names": ("Rotate", "Color"), "stages": 3, "epochs": 5},
    "steps of a large set": {"per_epoch": 10000, "every": 5000, "epochs": 100, "residuals": False},
    "unfinished": {"finished": False, "epochs": 7},
}


@pytest.mark.parametrize("case", CASES)
def test_no_text_overlaps_or_leaves_the_page(tmp_path: Path, drawn: dict[str, Any], case: str) -> None:
    draw_run(make_run(tmp_path / "run", **CASES[case]))
    assert len(drawn) == 3
    for figure in drawn.values():
        assert overlaps(figure) == []


def test_a_comparison_s_legend_fits(tmp_path: Path, drawn: dict[str, Any]) -> None:
    names = [str(n) * 40 for n in range(7)]
    method = {"name": "madao", "solver": "neumann", "control": "flipped"}
    draw_comparison([make_run(tmp_path / n, method=method, epochs=2) for n in names], tmp_path / "out.png")
    (figure,) = drawn.values()
    assert overlaps(figure) == []


# Machado, Oliveira and Fernandes (2009), severity 1: how colours look without one kind of cones.
SIGHT = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colours: tuple[str, ...], sight: str) -> np.ndarray:
    """CIELAB under D65, ``(N, 3)``."""
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SIGHT[sight]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("sight", SIGHT)
def test_the_areas_colours_are_told_apart(sight: str) -> None:
    colours = lab(AREAS, sight)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert len(AREAS) == 14
    assert distances[~np.eye(14, dtype=bool)].min() > 20
    assert np.diag(distances, 1).min() > 45


def test_an_operation_has_its_colour_in_every_picture() -> None:
    assert area_colours(PAPER_OPERATIONS) == list(AREAS)
    assert area_colours(["Sharpness", "ShearX"]) == [AREAS[13], AREAS[0]]
    assert area_colours(["Gamma", "ShearX", "Blur"]) == [AREAS[1], AREAS[0], AREAS[2]]
    assert area_colours([*PAPER_OPERATIONS, "Gamma"]) == [*AREAS, AREAS[0]]


def test_labels_keep_their_distance_and_their_order() -> None:
    assert spread([1.0, 2.0], 0.5, 3.0) == [1.0, 2.0]
    assert spread([1.0, 1.1], 0.5, 3.0) == [1.0, 1.5]
    assert spread([2.9, 3.0], 0.5, 3.0) == [2.25, 2.75]
    assert spread([0.0, 0.0, 3.0], 0.5, 3.0) == [0.25, 0.75, 2.75]


def test_cells_meet_half_way() -> None:
    assert boundaries([3]) == [2.5, 3.5]
    assert boundaries([1, 2, 3]) == [0.5, 1.5, 2.5, 3.5]
    assert boundaries([1, 3, 4]) == [0, 2, 3.5, 4.5]


# Errors


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingLibraryError, match=r"Drawing a run needs matplotlib.*\[vision\]"):
        draw_run(run)
    assert not (run / "pictures").exists()


def other_policy(run: Path) -> None:
    Policy(2, ["Rotate"]).save(run / "policies" / "0001.json")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no run": (lambda run: (run / "config.json").unlink(), "is no run of hypergrad"),
    "no epoch": (lambda run: (run / "metrics.jsonl").unlink(), "has recorded no epoch, so there is nothing to draw"),
    "a missing number": (
        lambda run: change_line(run, "epoch", 1, lambda line: line.pop("val_error")),
        "metrics.jsonl: epoch record 2 lacks the field 'val_error'",
    ),
    "a text in place of a number": (
        lambda run: change_line(run, "update", 0, lambda line: line.update(grad_norm="high")),
        "metrics.jsonl, line 1: grad_norm must be a number; got 'high'",
    ),
    "a step that is null": (
        lambda run: change_line(run, "update", 2, lambda line: line.update(inner_step=None)),
        "update record 3.inner_step must be an integer of at least 0; got None",
    ),
    "an unknown status": (
        lambda run: change_line(run, "update", 1, lambda line: line.update(status="lost")),
        "update record 2.status must be 'converged' or 'truncated'",
    ),
    "a configuration without a method": (
        lambda run: (run / "config.json").write_text("{}"),
        "config.json: the content lacks the field 'method'",
    ),
    "a test error above 100": (
        lambda run: (run / "result.json").write_text('{"test": {"error": 101}}'),
        "result.json: test.error must be a number in [0, 100]; got 101",
    ),
    "a policy of another run": (other_policy, "the policy of epoch 1 has 2 stages of Rotate; that of epoch 2 has 2"),
    "a policy cut short": (
        lambda run: (run / "policies" / "0002.json").write_text('{"format": '),
        "0002.json is not JSON",
    ),
    "a file in the folder's place": (lambda run: (run / "pictures").write_text(""), "pictures cannot be made"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(tmp_path: Path, drawn: dict[str, Any], case: str) -> None:
    run = make_run(tmp_path / "run", epochs=2, names=("Rotate", "Solarize"))
    damage, message = DAMAGE[case]
    damage(run)
    with pytest.raises(InvalidInputError) as info:
        draw_run(run)
    assert message in str(info.value)
    assert not (run / "pictures").is_dir()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: draw_run(run / "none"), "is no run of hypergrad"),
        (lambda run: draw_run(run, digits()[0]), "must have the shape (B, C, H, W); got (1, 8, 8)"),
        (lambda run: draw_run(run, digits() * 16), "must lie in [0, 1]"),
        (lambda run: draw_run(run, digits()[:0]), "at least one image"),
        (lambda run: draw_comparison([], run / "out.png"), "shows 1 to 7 runs; got 0"),
        (lambda run: draw_comparison([run] * 8, run / "out.png"), "shows 1 to 7 runs; got 8"),
        (lambda run: draw_comparison([run], run / "out.jpg"), "written as .png, .svg, .pdf"),
        (lambda run: draw_comparison([run], run / "no" / "out.png"), "does not exist"),
    ],
)
def test_errors(tmp_path: Path, drawn: dict[str, Any], call: Callable[[Path], Any], message: str) -> None:
    run = make_run(tmp_path / "run", epochs=2, names=("Rotate", "Solarize"))
    before = sorted(run.iterdir())
    with pytest.raises(InvalidInputError) as info:
        call(run)
    assert message in str(info.value)
    assert sorted(run.iterdir()) == before
