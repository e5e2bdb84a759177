"""The page of ``peers.py``, from its JSON alone."""

from collections.abc import Callable, Sequence
from typing import Any

from _peers_measure import Row, best, median, quartiles, ratio

WANTED = tuple(10.0**-k for k in range(1, 9))
SAME = 1e-3  # relative difference below which two float32 answers are the same
SHOWN = (5, 20, 50, 100, 200)
NAMES = {
    "ours": "**hypergrad (ours)**", "by hand": "by hand", "betty": "betty-ml", "torchopt": "torchopt",
    "moskomule": "hypergrad (moskomule)", "boat": "BOAT", "hypertorch": "hypertorch",
}  # fmt: skip


def peer(row: Row) -> bool:
    return row["library"] not in ("ours", "by hand")


def our_fixed(row: Row) -> bool:
    return row["library"] == "ours" and row["solver"] != "auto"


def our_auto(row: Row) -> bool:
    return row["library"] == "ours" and row["solver"] == "auto"


def render(result: dict[str, Any]) -> str:
    """The Markdown page."""
    parts = ["# Against other libraries", _peers(result)]
    for name, section in (
        ("accuracy", _accuracy),
        ("softmax", _prices),
        ("networks", _prices),
        ("memory", _memory),
        ("reports", _reports),
    ):
        if name in result:
            parts += [section(row) for row in result[name]["rows"]] if name != "reports" else [section(result[name])]
    return "\n\n".join(p for p in parts if p) + "\n\n" + _stamps(result)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(line) for line in lines)]
    return "\n".join(f"| {row} |" if "---" not in row[:3] else f"|{row}|" for row in rows)


def _peers(result: dict[str, Any]) -> str:
    found: dict[str, Any] = {}
    for part in result.values():
        for name, reply in part["made"]["peers"].items():
            found[name] = reply or found.get(name)
    told = [
        f"{NAMES[name]} ({'not found' if not reply else reply.get('error') or reply['version']})"
        for name, reply in found.items()
    ]
    smoke = " (A smoke run: it measures nothing.)" if any(p["made"]["smoke"] for p in result.values()) else ""
    return (
        f"Every library in a process of its own, one thread, the same files: {', '.join(told)}. Times are CPU times in "
        f"interleaved rounds whose order rotates; medians, and quartiles in brackets. Ratios are taken within "
        f"rounds.{smoke}"
    )


def _three(values: tuple[float, float, float]) -> str:
    q1, q2, q3 = values
    return f"{q2:.2f} ({q1:.2f} to {q3:.2f})"


def _where(row: Row) -> str:
    budget = f", {row['options']['budget']}" if "budget" in row["options"] else ""
    return f"{row['solver']}{budget}"


def _milliseconds(row: Row) -> str:
    return f"{1e3 * median(row['cpu_seconds']):.2f} ms"


def _accuracy(part: Row) -> str:
    rows = part["rows"]
    title = f"## Accuracy against time, condition number {part['condition']:.0f}"
    intro = (
        f"Hypergradient of {part['features']} log weight decays in a logistic regression of {part['samples']} samples, "
        "float64, at its optimum; error relative to the closed form. alpha of every Neumann series is the best of 0.5, "
        "1, 1.5, 1.9 over lambda_max, and rho of every Nystrom the best of 1e-4 to 1e-1 times lambda_max, at each "
        "budget, in hindsight. The quickest way to each accuracy (solver, products):"
    )
    lines = []
    for wanted in WANTED:
        ours, auto, hand, other = (
            best(rows, wanted, keep) for keep in (our_fixed, our_auto, lambda r: r["library"] == "by hand", peer)
        )
        cells = [f"{_where(r)}: {_milliseconds(r)}" if r else "never" for r in (ours, auto, hand)]
        cells.append(f"{NAMES[other['library']]} {_where(other)}: {_milliseconds(other)}" if other else "never")
        quickest = best(rows, wanted, lambda r: r["library"] == "ours")
        cells.append(_judged(quickest, other, 1.0))
        cells.append(_judged(auto, ours, 1.3))
        lines.append([f"{wanted:.0e}", *cells])
    head = [
        "error", "ours, without auto", "auto", "by hand", "best peer", "our quickest / peer (at most 1)",
        "auto / ours without it (at most 1.3)",
    ]  # fmt: skip
    budgets = sorted({r["options"].get("budget") for r in rows} - {None})
    shown = [k for k in SHOWN if k in budgets] or budgets
    errors = []
    for library, solver in dict.fromkeys((r["library"], r["solver"]) for r in rows):
        held = {r["options"].get("budget"): r for r in rows if (r["library"], r["solver"]) == (library, solver)}
        if None in held:
            errors.append([NAMES[library], solver, _cell(held[None]), *[""] * (len(shown) - 1)])
        else:
            errors.append([NAMES[library], solver, *(_cell(held[k]) if k in held else "failed" for k in shown)])
    return "\n\n".join(
        [
            title, intro, _table(head, lines),
            "Error and time at some budgets (a solver without a budget stands in the first column; **bold**: worse "
            "than the answer 0):",
            _table(["library", "solver", *map(str, shown)], errors), _failures(part["failed"]),
        ]
    )  # fmt: skip


def _cell(row: Row) -> str:
    if row["error"] is None:
        return "**not finite**"
    text = f"{row['error']:.1e}"
    return f"{f'**{text}**' if row['error'] > 1 else text}, {_milliseconds(row)}"


def _judged(top: Row | None, bottom: Row | None, limit: float) -> str:
    if bottom is None:
        return "no other" if top else ""
    if top is None:
        return "**never**"
    values = ratio(top, bottom)
    return _three(values) if values[1] <= limit else f"**{_three(values)}**"


def _failures(failed: Sequence[Row]) -> str:
    told = dict.fromkeys((r["library"], r.get("solver", "all"), r["error"]) for r in failed)
    return "\n".join(f"- {NAMES[library]}, {solver}: {error}" for library, solver, error in told)


def fastest_peer(rows: Sequence[Row]) -> Row | None:
    """Of those with the same answer, in floors."""
    good = [r for r in rows if peer(r) and "cpu_seconds" in r and r["error"] <= SAME]
    return min(good, key=lambda r: median(floors(r)), default=None)


def floors(row: Row) -> list[float]:
    """Time in forward and backward passes of the same process and round."""
    return [a / b for a, b in zip(row["cpu_seconds"], row["floor_seconds"], strict=True)]


def _prices(part: Row) -> str:
    kind = part["kind"]
    title = "Softmax regression, 784 features to 10 classes" if kind == "softmax" else kind.replace("wrn", "WideResNet")
    sections = [f"## {title}, batch {part['batch']}"]
    for solver in dict.fromkeys(r["solver"] for r in part["rows"]):
        rows = [r for r in part["rows"] if r["solver"] == solver]
        fastest = fastest_peer(rows)
        lines = []
        for row in rows:
            if "error" in row and "cpu_seconds" not in row:
                lines.append([NAMES[row["library"]], row["error"], "", "", ""])
                continue
            against = _three(ratio(row, fastest)) if fastest and row["library"] == "ours" else ""
            off = "" if row["library"] == "by hand" else f"{row['error']:.1e}"
            same = off if not off or row["error"] <= SAME else f"**{off}**"
            lines.append([NAMES[row["library"]], _three(quartiles(floors(row))), _milliseconds(row), same, against])
        budget = rows[0]["options"]["budget"]
        head = [
            f"{solver}, {budget} products",
            "passes",
            "CPU time",
            "difference from by hand",
            "over the fastest peer",
        ]
        sections.append(_table(head, lines))
    sections.append("A pass is one forward and backward of the training loss, in the same process and round.")
    return "\n\n".join(sections)


def _memory(part: Row) -> str:
    def of(row: Row, key: str, name: str) -> str:
        value = row.get(name, {}).get(key)
        return "" if value is None else f"{value / 2**20:.1f} MiB"

    def relative(row: Row, key: str) -> str:
        if not row.get("call", {}).get(key) or not row["floor"][key]:
            return ""
        return f"{row['call'][key] / row['floor'][key]:.2f}"

    lines = [
        [
            row["solver"], NAMES[row["library"]],
            *([row["error"], "", "", ""] if "error" in row else
              [of(row, "live", "call"), relative(row, "live"), of(row, "resident", "call"), relative(row, "resident")]),
        ]
        for row in part["rows"]
    ]  # fmt: skip
    head = ["solver", "library", "live tensors", "in floors", "resident", "in floors"]
    return "\n\n".join(
        [
            f"## Peak memory, {part['kind'].replace('wrn', 'WideResNet')}, batch {part['batch']}, "
            f"{part['rows'][0]['options']['budget']} products",
            "Above set-up, each in a fresh process: bytes of tensors alive at once (repeats exactly; kernels' "
            "scratch memory is not seen), and the rise of the process's resident memory (depends on the allocator). A "
            "floor is the same of one forward and backward pass.",
            _table(head, lines),
        ]
    )


def _reports(part: Row) -> str:
    lines = []
    for row in part["rows"]:
        made = part["made"]["peers"].get(row["library"]) or {"version": "?"}
        verdict = "as expected now" if row["printed"] == row["expected"] else "differs"
        lines.append(
            f"- {NAMES[row['library']]} {made['version']}: {row['about']}. Expected {row['expected']}; printed "
            f"`{row['printed']}` ({verdict}):\n\n"
            f'      python -c "{row["code"]}"\n'
        )
    return "\n\n".join(
        [
            "## Answers that we would report",
            "Questions whose answer is known, run with the versions above. All of these libraries gave us ideas, and "
            "their Neumann series agree with the formula to rounding.",
            "\n".join(lines),
        ]
    )


def _stamps(result: dict[str, Any]) -> str:
    lines: dict[str, list[str]] = {}
    for name, part in result.items():
        made = part["made"]
        env = made["environment"]
        text = (
            f"{env['cpu']}, torch {env['torch']}, Python {env['python']}, commit {made['commit']}. Made by "
            f"`{made['command']}`."
        )
        lines.setdefault(text, []).append(name)
    return "\n".join(f"{', '.join(names)}: {text}" for text, names in lines.items()) + "\n"


def unmet(rows: Sequence[Row], top: Callable[[Row], bool], bottom: Callable[[Row], bool], limit: float) -> list[float]:
    """The accuracies at which the quickest of ``top`` takes more than ``limit`` times that of ``bottom``."""
    missed = []
    for wanted in WANTED:
        first, second = best(rows, wanted, top), best(rows, wanted, bottom)
        if second and (first is None or ratio(first, second)[1] > limit):
            missed.append(wanted)
    return missed
