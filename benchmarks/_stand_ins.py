"""On which data the paper's scripts run, and with which settings: free stand-ins, and the paper's own."""

import json
from collections.abc import Mapping
from typing import Any

from hypergrad.errors import UnknownNameError
from hypergrad.registry import closest
from hypergrad.vision.config import recipe

#: What a small CNN learns in a minute or two of one CPU thread; a policy sees some two hundred updates.
_SMALL: dict[str, Any] = {
    "model": {"name": "small-cnn"},
    "standard": {"crop": 2},
    "method": {"name": "madao", "every": 5, "lr": 0.03, "solver_options": {"alpha": "auto"}},
    "epochs": 40,
    "batch_size": 64,
    "lr": 0.05,
}
_FASHION = {**_SMALL, "data": {"name": "fashion-mnist", "train_size": 2000, "validation": 1000}}

#: Data that is free and small: settings by name.
STAND_INS: dict[str, dict[str, Any]] = {
    # Fewer training images than there are: with all of them every method makes some four mistakes in 359, and rows
    # cannot differ. 1,440 steps, 260 updates of the policy.
    "digits": {
        **recipe("cpu"),
        "recipe": "cpu",
        "data": {"name": "digits", "train_size": 600, "validation": 400},
        "epochs": 80,
    },
    "fashion-mnist": _FASHION,
    "fashion-mnist:rotated": {**_FASHION, "data": {**_FASHION["data"], "shift_degrees": 25.0}},
    # Google's drawings train, Twitter's are validated and tested.
    "emoji": {**_SMALL, "data": {"name": "emoji"}},
}

#: The paper's data, and the recipe of each.
_RECIPES = {
    "cifar10": "paper-cifar10",
    "cifar100": "paper-cifar100",
    "svhn": "paper-svhn",
    "imagenet": "paper-imagenet",
    "flowers102": "paper-flowers",
    "pets": "paper-pets",
    "aircraft": "paper-aircraft",
    "cars": "paper-cars",
}
PAPER_SETS: dict[str, dict[str, Any]] = {data: {**recipe(name), "recipe": name} for data, name in _RECIPES.items()}


def stand_in(data: str, /, **changes: Any) -> dict[str, Any]:
    """Settings of a :class:`~hypergrad.vision.config.TrainConfig` for a data set, new on each call.

    Args:
        data: a name of ``STAND_INS`` or ``PAPER_SETS``.
        changes: laid over the settings, sections field by field; a section that gets another ``name`` starts anew.

    Raises:
        UnknownNameError: no such name.
    """
    known = STAND_INS | PAPER_SETS
    if data not in known:
        raise UnknownNameError(f"Unknown data {data!r}.{closest(data, list(known))} There are: {', '.join(known)}.")
    settings: dict[str, Any] = json.loads(json.dumps(known[data]))
    for key, value in changes.items():
        below = settings.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            another = "name" in value and value["name"] != below.get("name")
            settings[key] = dict(value) if another else {**below, **value}
        else:
            settings[key] = value
    return settings
