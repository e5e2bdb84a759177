"""A file imports only from lower levels, or acyclically within its own folder, and never inside a function."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The first part of a module's name below `hypergrad`, a file or a folder. `result` holds what solvers return.
LEVELS = {
    0: "errors registry tree keys distributed reductions batches memory messages progress optional files interruption "
    "version",
    0.5: "second_order",
    1: "linearization solvers modules optimizers",
    1.5: "result records curvature",
    2: "estimators families",
    3: "augment model_loss objective checkpoint",
    3.5: "shards failures",
    3.7: "keyed_objective stepper_state",
    4: "stepper",
    4.5: "diagnostics",
    5: "solve_identity solve_parts solving problem baselines testing",
    6: "vision",
    6.5: "report",
    7: "cli",
    8: "",  # hypergrad/__init__.py
    9: "__main__",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split(" ")}
SOLVERS_MAY_SEE = {"errors", "registry", "solvers"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for p in sorted((ROOT / "hypergrad").rglob("*.py"))}


def room(module: str) -> str:
    """The part of a module's name that has a level: ``hypergrad.solvers.base`` is in ``solvers``."""
    return [*module.split("."), ""][1]


def own_imports(node: ast.AST, known: dict[str, Path] = FILES) -> set[str]:
    """The modules of ours that the code under ``node`` imports."""
    found = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Import):
            found |= {a.name for a in n.names}
        elif isinstance(n, ast.ImportFrom):
            assert n.level == 0, f"line {n.lineno}: a relative import; write it out from `hypergrad`"
            # `from package import module` imports the module, not only the package.
            found |= {m if (m := f"{n.module}.{a.name}") in known else str(n.module) for a in n.names}
    return {m for m in found if m.split(".")[0] == "hypergrad"}


IMPORTS = {name: own_imports(ast.parse(path.read_text())) for name, path in FILES.items()}


@pytest.mark.parametrize("module", FILES)
def test_levels(module: str) -> None:
    assert room(module) in LEVEL, f"{module}: give {room(module)!r} a level in this test and in the design"
    for imported in IMPORTS[module]:
        assert imported in FILES, f"{module} imports {imported}, which does not exist"
        files = FILES[module].parent == FILES[imported].parent == ROOT / "hypergrad"
        same_folder = LEVEL[room(imported)] == LEVEL[room(module)] if files else room(imported) == room(module)
        lower = LEVEL[room(imported)] < LEVEL[room(module)]
        assert same_folder or lower, f"{module} imports {imported}, which is not on a lower level"
        if room(module) == "solvers":
            assert room(imported) in SOLVERS_MAY_SEE, f"{module} is linear algebra only, and imports {imported}"


def test_no_cycles() -> None:
    tuple(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the cycle


@pytest.mark.parametrize("module", FILES)
def test_none_of_ours_is_imported_inside_a_function(module: str) -> None:
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            assert not own_imports(node), f"{module}:{node.lineno} imports {own_imports(node)} inside a function"


def test_the_reader_of_imports() -> None:
    known = {"hypergrad.solvers.base": Path(), "hypergrad.solvers": Path()}
    code = "import torch, hypergrad.tree\nfrom hypergrad.solvers import base, get\ndef f():\n    import hypergrad.keys"
    found = own_imports(ast.parse(code), known)
    assert found == {"hypergrad.tree", "hypergrad.solvers.base", "hypergrad.solvers", "hypergrad.keys"}
    with pytest.raises(AssertionError, match="relative"):
        own_imports(ast.parse("from . import tree"))
