"""The table of ``faults.py``, from its JSON alone."""

import statistics
from collections import Counter
from typing import Any

TITLES = {
    "train": "`hypergrad train`",
    "solve": "`solve(checkpoint=)`",
    "files": "checkpoint files",
    "search": "two search workers",
    "ranks": "`solve` over two ranks",
    "torchrun": "`solve` over two ranks",
    "control": "control: must be seen to differ",
}


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a fault, in the order in which they were tried."""
    rows = []
    trials = [(group, t) for group in TITLES if group in result for t in result[group]["trials"]]
    for key in dict.fromkeys((group, t["fault"]) for group, t in trials):
        own = [t for group, t in trials if (group, t["fault"]) == key for _ in range(t["times"])]
        rows.append(
            {
                "group": key[0],
                "fault": key[1],
                "tried": len(own),
                "survived": sum(t["survived"] for t in own),
                "fresh": sum(t["fresh"] for t in own),
                "steps": [t["steps"] for t in own if t["steps"] is not None],
                "seconds": [t["seconds"] for t in own if t["seconds"] is not None],
                "notes": Counter(t["note"] for t in own if t["note"] and t["survived"]),
            }
        )
    return rows


def render(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| what | fault | tried | as without it | done again: median, most | seconds lost: median, most |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in summary(result):
        unit = "attempts" if row["group"] == "search" else "steps"
        steps = f"{_two(row['steps'], '.0f')} {unit}" if row["steps"] else ""
        lines.append(
            f"| {TITLES[row['group']]} | {row['fault']} | {row['tried']} | {row['survived']} | {steps} "
            f"| {_two(row['seconds'], '.2f')} |"
        )
    said = [
        f"- {TITLES[row['group']]}, {row['fault']}: "
        + "; ".join(f"{note.strip().splitlines()[0]} ({count})" for note, count in row["notes"].items())
        for row in summary(result)
        if row["notes"]
    ]
    fresh = sum(row["fresh"] for row in summary(result))
    lines += [
        "",
        "*As without it*: the files that the run leaves equal those of the uninterrupted run bit for bit, times left "
        "out; of a damaged checkpoint: it was refused and the one before was used; of a search: each cell is complete "
        "once, with its own value. *Done again*: inner steps (of a search: attempts) that were lost with the process. "
        "*Seconds lost*: since the last checkpoint.",
        "",
        *said,
        "",
        f"{fresh} of the kills were of real interpreters, the others of forks; one thread a process.",
        "",
        *(
            f"- {name}: seed {g['seed']}, commit {g['commit']}, torch {g['torch']}, Python {g['python']}, "
            f"{g['cores']} cores, {g['seconds']:.0f} s, `{g['command']}`"
            for name, g in result.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _two(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}}, {max(values):{form}}" if values else ""
