"""The settings and recipes as Markdown, for the site; a test compares the page with them."""

import json
from collections.abc import Iterable
from typing import Any

from hypergrad.cli.setting_keys import Setting, option, settings
from hypergrad.vision.config import RECIPES

_HEADINGS = {
    "": "Training",
    "data": "Data",
    "model": "Network",
    "standard": "Standard augmentation",
    "method": "Method",
}


def settings_tables() -> str:
    """Every setting with its values, default and description: a table a section, and one a method."""
    found = settings()
    blocks = []
    for section, heading in _HEADINGS.items():
        own = [s for s in found if s.key.rpartition(".")[0] == section]
        if section != "method":
            blocks.append(f"### {heading}\n\n{_table(own)}")
            continue
        blocks.append(f"### {heading}\n\n{_table([s for s in own if s.key == 'method.name'][:1])}")
        for method in dict.fromkeys(s.method for s in own):
            rest = [s for s in own if s.method == method and s.key != "method.name"]
            text = _table(rest) if rest else "No further settings."
            blocks.append(f"#### `--method {method}`\n\n{text}")
    return "\n\n".join(blocks) + "\n"


def recipes_table() -> str:
    """Every recipe with what it sets."""
    rows = [f"| `{name}` | {', '.join(_leaves(values))} |" for name, values in RECIPES.items()]
    return "\n".join(["| recipe | what it sets; the rest as in the tables below |", "|---|---|", *rows]) + "\n"


def _table(rows: Iterable[Setting]) -> str:
    lines = ["| option | values | default | what it is |", "|---|---|---|---|"]
    for s in rows:
        values, default = s.kind, "must be given" if s.default is None else f"`{s.default}`"
        if s.key == "method.name":
            values, default = " or ".join(str(m.method) for m in settings() if m.key == s.key), '`"madao"`'
        lines.append(f"| `{option(s.key)}` | {values} | {default} | {s.description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """``key=value`` of each setting."""
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append(f"`{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}`")
    return found
