"""What is printed, and how."""

import warnings

import pytest

from hypergrad.cli.console import plain_warnings
from hypergrad.errors import HypergradWarning


@pytest.mark.filterwarnings("default")
def test_our_warnings_are_plain_lines_and_others_stay_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *place, **more: others.append(str(message)))
    before = warnings.showwarning
    with plain_warnings():
        warnings.warn("a class has one image", HypergradWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert warnings.showwarning is before
    assert capsys.readouterr().err == "hypergrad: warning: a class has one image\n"
    assert others == ["something else"]
