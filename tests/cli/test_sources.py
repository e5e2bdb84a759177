"""Recipe < file < environment < options, section by section; what each of them may look like."""

import json
from pathlib import Path
from typing import Any

import pytest

from hypergrad.cli import main
from hypergrad.cli.layers import Layer, merged
from hypergrad.vision.config import TrainConfig, recipe


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The configuration that the arguments give."""
    assert main(["train", *arguments, "--print-config"]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert not list(Path.cwd().glob("runs"))
    found: dict[str, Any] = json.loads(out)
    return found


def test_without_anything_it_is_the_model_s_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == TrainConfig().model_dump(mode="json")


def test_a_recipe_is_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    expected = TrainConfig(recipe="cpu", **recipe("cpu")).model_dump(mode="json")
    assert printed(capsys, "--recipe", "cpu") == expected


def test_the_order_of_the_sources(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # cpu: epochs 60, batch_size 32, lr 0.05, crop 1, every 5; each higher source changes one thing less.
    Path("a.json").write_text('{"recipe": "cpu", "batch_size": 33, "lr": 0.33, "standard": {"crop": 33}}')
    monkeypatch.setenv("HYPERGRAD_LR", "0.44")
    monkeypatch.setenv("hypergrad_standard__crop", "44")
    found = printed(capsys, "--config", "a.json", "--standard.crop", "55")
    assert (found["epochs"], found["batch_size"], found["lr"], found["standard"]["crop"]) == (60, 33, 0.44, 55)
    assert found["method"]["every"] == 5


@pytest.mark.parametrize("source", ["file", "environment", "option"])
def test_a_recipe_is_lowest_wherever_it_is_named(
    source: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"epochs": 7} | ({"recipe": "cpu"} if source == "file" else {})
    Path("a.json").write_text(json.dumps(content))
    if source == "environment":
        monkeypatch.setenv("HYPERGRAD_RECIPE", "cpu")
    found = printed(capsys, "--config", "a.json", *(["--recipe", "cpu"] if source == "option" else []))
    assert (found["recipe"], found["epochs"], found["batch_size"]) == ("cpu", 7, 32)


def test_toml_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('epochs = 3\n[data]\nname = "mnist"\nroot = "x"\n[method]\noperations = ["Rotate"]\n')
    Path("a.json").write_text(
        '{"epochs": 3, "data": {"name": "mnist", "root": "x"}, "method": {"operations": ["Rotate"]}}'
    )
    found = printed(capsys, "--config", "a.toml")
    assert found == printed(capsys, "--config", "a.json")
    assert found["method"]["name"] == "madao" and found["data"]["root"] == "x"


def test_a_configuration_that_was_printed_gives_itself(capsys: pytest.CaptureFixture[str]) -> None:
    first = printed(capsys, "--recipe", "paper-svhn", "--seed", "3", "--method", "fixed")
    Path("a.json").write_text(json.dumps(first))
    assert printed(capsys, "--config", "a.json") == first


@pytest.mark.parametrize("name", ["data", "model", "method"])
def test_the_short_options_are_the_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"data": "mnist", "model": "resnet18", "method": "fixed"}[name]
    found = printed(capsys, f"--{name}", value)
    assert found == printed(capsys, f"--{name}.name", value)
    assert found[name]["name"] == value
    assert printed(capsys, f"--{name}.name", "x-y", f"--{name}", value) == found  # the last one wins


VALUES = [
    (["--method.solver-options", "alpha=0.05,num_hvps=3"], {"alpha": 0.05, "num_hvps": 3}),
    (
        ["--method.solver-options", "alpha=1e-3", "--method.solver-options", "num_hvps=3"],
        {"alpha": 1e-3, "num_hvps": 3},
    ),
    (["--method.solver-options", '{"alpha": "auto", "num_hvps": 3}'], {"alpha": "auto", "num_hvps": 3}),
    (["--method.solver-options", "alpha=auto"], {"alpha": "auto"}),
    (["--model.options", "smooth=true,width=2,kind=[x"], {"smooth": True, "width": 2, "kind": "[x"}),
]


@pytest.mark.parametrize(("arguments", "expected"), VALUES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_names_and_values(arguments: list[str], expected: object, capsys: pytest.CaptureFixture[str]) -> None:
    section, key = arguments[0].removeprefix("--").replace("-", "_").split(".")
    found = printed(capsys, *arguments)[section][key]
    assert found == expected and [type(v) for v in found.values()] == [type(v) for v in expected.values()]  # type: ignore[attr-defined]


def test_values_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATA__CHANNELS": "3",
        "DATA__ROOT": "null",
        "NESTEROV": "false",
        "METHOD__OPERATIONS": "Rotate, Invert",
        "METHOD__SOLVER_OPTIONS__ALPHA": "0.5",
        "STANDARD": '{"crop": 2, "flip": true}',
    }.items():
        monkeypatch.setenv(f"HYPERGRAD_{name}", value)
    found = printed(capsys)
    assert found["data"]["channels"] == 3 and found["data"]["root"] is None and found["nesterov"] is False
    assert found["method"]["operations"] == ["Rotate", "Invert"]
    assert found["method"]["solver_options"] == {"alpha": 0.5}
    assert found["standard"]["crop"] == 2 and found["standard"]["flip"] is True


def test_values_from_options(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data.channels", "3", "--data.root", "null", "--nesterov", "false", "--data.validation", "200"]
    found = printed(capsys, *arguments, "--method.operations", "Rotate,Invert", "--standard.flip", "true")
    assert found["data"]["channels"] == 3 and found["data"]["root"] is None and found["nesterov"] is False
    assert found["data"]["validation"] == 200 and found["standard"]["flip"] is True
    assert found["method"]["operations"] == ["Rotate", "Invert"]


A = {"method": {"name": "madao", "every": 5, "solver_options": {"alpha": "auto"}}, "data": {"validation": 0.2}}
MERGES = {
    "another method drops the rest": ([A, {"method": {"name": "fixed"}}], {"method": {"name": "fixed"}}),
    "the same method keeps it": ([A, {"method": {"name": "madao", "lr": 1}}], {"method": {**A["method"], "lr": 1}}),
    "a method without a name is madao": ([{"method": {"every": 3}}], {"method": {"name": "madao", "every": 3}}),
    "and another one drops its rest": (
        [{"method": {"every": 3}}, {"method": {"name": "fixed"}}],
        {"method": {"name": "fixed"}},
    ),
    "and named, keeps it": (
        [{"method": {"every": 3}}, {"method": {"name": "madao"}}],
        {"method": {"name": "madao", "every": 3}},
    ),
    "a solver drops the other's options": (
        [A, {"method": {"solver": "cg", "solver_options": {"tol": 0.1}}}],
        {"method": {"name": "madao", "every": 5, "solver": "cg", "solver_options": {"tol": 0.1}}},
    ),
    "options of the same solver add up": (
        [A, {"method": {"solver": "neumann", "solver_options": {"num_hvps": 1}}}],
        {"method": {**A["method"], "solver": "neumann", "solver_options": {"alpha": "auto", "num_hvps": 1}}},
    ),
    "settings for any data set stay": (
        [A, {"data": {"name": "svhn"}}],
        {"data": {"validation": 0.2, "name": "svhn"}},
    ),
    "those for another one go": (
        [{"data": {"name": "svhn", "root": "a"}}, {"data": {"name": "mnist"}}, {"data": {"image_size": 9}}],
        {"data": {"name": "mnist", "image_size": 9}},
    ),
}


@pytest.mark.parametrize("case", MERGES)
def test_merging(case: str) -> None:
    layers, expected = MERGES[case]
    before = json.dumps(layers)
    found = merged([Layer(str(i), values) for i, values in enumerate(layers)])
    assert {key: found[key] for key in expected} == expected
    assert json.dumps(layers) == before, "a source was changed"


def test_of_two_recipes_the_higher_source_s_counts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text('{"recipe": "paper-svhn", "seed": 9}')
    found = printed(capsys, "--config", "a.json", "--recipe", "cpu")
    assert found == printed(capsys, "--recipe", "cpu", "--seed", "9")
