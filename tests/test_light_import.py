"""``import hypergrad`` costs torch and numpy, and none of the optional libraries."""

import subprocess
import sys

OPTIONAL = ["kornia", "optuna", "pydantic", "rich", "matplotlib", "sklearn", "PIL", "scipy", "torchvision"]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(run.stdout.split())


def test_importing_hypergrad_loads_no_optional_library() -> None:
    loaded = loaded_by("import hypergrad")
    assert {"hypergrad", "torch"} <= loaded
    # What torch itself may load is not ours to answer for.
    assert not (loaded - loaded_by("import torch")) & set(OPTIONAL)


def test_the_probe_sees_an_optional_library() -> None:
    assert "rich" in loaded_by("import rich")
