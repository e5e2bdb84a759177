"""The settings of a comparison: what all methods share, and to which of them a setting of a method belongs."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from hypergrad.cli.layers import Layer, Options, environment_layer, file_layer, merged
from hypergrad.cli.refusals import validated
from hypergrad.cli.setting_keys import option, settings
from hypergrad.errors import InvalidInputError
from hypergrad.vision.comparing import Contender, MethodText, Plan
from hypergrad.vision.comparing.contenders import make_searching
from hypergrad.vision.config import TrainConfig, recipe
from hypergrad.vision.searching.differences import first_difference


def read_rows(
    parsed: argparse.Namespace, options: Options, methods: Sequence[MethodText]
) -> tuple[TrainConfig, tuple[Contender, ...]]:
    """What is shared, and the rows, from all sources: recipe, file, environment, options.

    A section ``method`` that has a name, as a recipe's has, is of that method alone. A setting of a method without a
    name, as ``--method.every``, goes to every compared method that has it.

    Raises:
        InvalidInputError: a setting that cannot be, or that none of the methods has; the message says from where.
    """
    layers = [environment_layer(), _given(parsed, options)]
    if parsed.config is not None:
        layers.insert(0, file_layer(parsed.config))
    named = [layer.values["recipe"] for layer in layers if layer.values.get("recipe") is not None]
    if named:
        layers.insert(0, Layer(f"the recipe {named[-1]}", recipe(named[-1])))
    _check_used(layers, methods)
    rows = tuple(make_searching(text) if text.search else _row(layers, text) for text in methods)
    return _shared(layers), rows


def check_unchanged(parsed: argparse.Namespace, options: Options, plan: Plan, methods: Sequence[MethodText]) -> None:
    """Refuse settings beside ``--resume`` that are not those of the folder; what is repeated as it was is accepted.

    The environment is not looked at: a resumed comparison takes nothing from it.

    Raises:
        InvalidInputError: the first setting that differs, with both values.
    """
    layers = [_given(parsed, options)]
    if parsed.config is not None:
        layers.insert(0, file_layer(parsed.config))
    held = plan.config.model_dump(mode="json")
    base = Layer(str(parsed.resume), held)
    found = [first_difference(held, _shared([base, *layers]).model_dump(mode="json"))]
    labels, now = [row.label for row in plan.contenders], [text.label for text in methods]
    if methods and now != labels:
        found.insert(0, ("--methods", ",".join(labels), ",".join(now)))
    texts = [MethodText(row.label, row.method.name, {}, False) for row in plan.contenders if row.search is None]
    _check_used(layers, texts)
    for row, text in zip((row for row in plan.contenders if row.search is None), texts, strict=True):
        method = row.method.model_dump(mode="json")
        again = _row([Layer(base.origin, {**held, "method": method}), *layers], text).method.model_dump(mode="json")
        found.append(first_difference({"method": method}, {"method": again}))
    for name, before, value in filter(None, found):
        raise InvalidInputError(
            f"{name} was {before!r} when the comparison in {parsed.resume} was begun, and is {value!r} now. --resume "
            "takes its settings from there: leave it out, or begin another comparison with --output."
        )


def _given(parsed: argparse.Namespace, options: Options) -> Layer:
    """The options, without those that are not a comparison's."""
    layer = options.layer(parsed)
    method = layer.values.get("method")
    if isinstance(method, dict) and "name" in method:
        raise InvalidInputError(
            f"--method {method['name']}: a comparison has several methods. Write --methods {method['name']},standard."
        )
    if "seed" in layer.values:
        raise InvalidInputError(
            f"--seed {layer.values['seed']}: a comparison has several seeds. Write --seeds {layer.values['seed']}, "
            "(a list) or --seeds 3 (a count)."
        )
    return layer


def _shared(layers: Sequence[Layer]) -> TrainConfig:
    kept = [replace(x, values={k: v for k, v in x.values.items() if k not in ("method", "seed")}) for x in layers]
    return validated(merged([*kept, Layer("the comparison", {"method": {"name": "standard"}})]), kept)


def _row(layers: Sequence[Layer], text: MethodText) -> Contender:
    own = [Layer(f"--methods {text.label}", {"method": {"name": text.name}})]
    for layer in layers:
        section = layer.values.get("method")
        if isinstance(section, dict):
            # A name of the section's own is another method's, or this one's.
            known = _keys(text.name) if "name" not in section else section if section["name"] == text.name else ()
            section = {"name": text.name, **{key: value for key, value in section.items() if key in known}}
        kept = {key: value for key, value in layer.values.items() if key not in ("method", "seed")}
        own.append(replace(layer, values=kept if section is None else {**kept, "method": section}))
    own.append(Layer(f"--methods {text.label}", {"method": {"name": text.name, **text.options}}))
    return Contender(text.label, validated(merged(own), own).method)


def _keys(method: str) -> set[str]:
    return {setting.key.removeprefix("method.") for setting in settings() if setting.method == method}


def _check_used(layers: Sequence[Layer], methods: Sequence[MethodText]) -> None:
    """Refuse a setting of a method that none of the compared ones has."""
    known = set().union(*(_keys(text.name) for text in methods if not text.search))
    for layer in layers:
        section = layer.values.get("method")
        if not isinstance(section, dict) or "name" in section:
            continue
        for key in section:
            if key not in known:
                owners = [str(s.method) for s in settings() if s.key == f"method.{key}"]
                whose = f" It is a setting of {', '.join(owners)}." if owners else ""
                raise InvalidInputError(
                    f"{option(f'method.{key}')}: no method of --methods has this setting.{whose} Name such a method, "
                    f"or leave it out (from {layer.origin})."
                )
