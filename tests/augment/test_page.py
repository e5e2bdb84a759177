"""The tables of docs/augmentation.md say what the code does."""

import re
from pathlib import Path

import pytest

from hypergrad.augment import PAPER_OPERATIONS, RANGES, get_operation

PAGE = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()


def table(header: str) -> list[list[str]]:
    """The cells of the rows below a table's header, which begins with ``| header |``."""
    (found,) = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


def number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


OPERATIONS = table("operation | unit")


def test_every_operation_has_a_row() -> None:
    assert [row[0] for row in OPERATIONS] == [*PAPER_OPERATIONS, "Identity"]


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row[0])
def test_an_operation_s_row_is_its_record(row: list[str]) -> None:
    name, unit, zero, one, sign, gradient, why = row
    operation = get_operation(name)
    assert (unit, gradient) == (operation.unit, operation.gradient)
    assert (number(zero), number(one)) == (operation.identity, operation.strongest)
    assert {"yes": True, "no": False}[sign] is operation.signed
    assert why
    if operation.width is not None:
        assert f"width {operation.width:g}" in why


def test_the_ranges() -> None:
    header = re.search(r"^\| operation \| (madao.*) \|$", PAGE, re.MULTILINE)
    assert header is not None
    columns = [name.strip() for name in header.group(1).split("|")]
    assert columns == list(RANGES)
    rows = table("operation | madao")
    named = {name for row in rows for name in row[0].split(", ")}
    # What has no row is the same in all of them.
    same = set(PAPER_OPERATIONS) - named
    assert all(name not in changes for changes in RANGES.values() for name in same)
    for names, *cells in rows:
        for name in names.split(", "):
            for ranges, cell in zip(columns, cells, strict=True):
                operation = get_operation(name, ranges)
                if cell == "always in full":
                    assert operation.identity == operation.strongest == 1
                else:
                    amount, _, unit = cell.partition(" ")
                    assert number(amount) == pytest.approx(operation.strongest, rel=1e-12)
                    assert operation.unit == (unit or get_operation(name).unit)
