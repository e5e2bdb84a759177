"""States of modules, optimizers and random generators, there and back; what does not fit is refused."""

import functools
from collections import Counter

import pytest
import torch
from torch import nn

from hypergrad import solvers
from hypergrad.checkpoint import Checkpoints, described, restore, training_state
from hypergrad.checkpoint.encoding import decode, encode, equal
from hypergrad.checkpoint.identity import differences
from hypergrad.errors import InvalidInputError
from hypergrad.solvers import Status


class Extra(nn.Linear):
    """With a state that is no tensor, and a buffer that no state_dict holds."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.extra = 0
        self.register_buffer("hidden", torch.zeros(2), persistent=False)

    def get_extra_state(self):
        return {"extra": self.extra}

    def set_extra_state(self, state):
        self.extra = state["extra"]


def made(extra: int = 0):
    module = nn.Sequential(Extra(), nn.BatchNorm1d(2), nn.Linear(2, 3))
    module.append(nn.Linear(2, 3))
    module[3].weight = module[2].weight
    module[0].extra = extra
    optimizer = torch.optim.Adam(module.parameters(), lr=torch.tensor(0.1))
    return module, optimizer


def work(module, optimizer):
    optimizer.zero_grad()
    hidden = module[1](module[0](torch.randn(4, 3)))
    (module[2](hidden) * module[3](hidden)).sum().backward()
    optimizer.step()
    module[0].hidden += 1


def test_there_and_back(tmp_path) -> None:
    module, optimizer = made(extra=7)
    work(module, optimizer)
    module[1].eval()
    Checkpoints(tmp_path, kind="x").save({"best": 3, **training_state(model=module, inner=optimizer)}, step=1)
    work(module, optimizer)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    again, second = made()
    found = Checkpoints(tmp_path, kind="x").load()
    assert found is not None and found.state["best"] == 3
    restore(found.state, model=again, inner=second)
    assert [m.training for m in again] == [True, False, True, True]
    assert again[0].extra == 7 and again[2].weight is again[3].weight
    work(again, second)
    assert torch.equal(torch.rand(3), drawn)
    state, expected = training_state(model=again, inner=second), training_state(model=module, inner=optimizer)
    assert equal(state["parts"], expected["parts"])
    # What was restored from is not written into.
    restore(found.state, model=again, inner=second)
    work(again, second)
    assert equal(training_state(model=again, inner=second)["parts"], expected["parts"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, o: training_state(model=m, epoch=3), r"epoch must have state_dict\(\) and load_state_dict.*got 3"),
        (lambda m, o: training_state(optimizer=torch.optim.SGD), "optimizer must have .*got <class"),
        (lambda m, o: restore(training_state(model=m, o=o), model=m), r"other parts: \['o'\] were not given, \[\]"),
        (lambda m, o: restore(training_state(model=m), model=m, o=o), r"\[\] were not given, \['o'\] are not in it"),
        (lambda m, o: restore(training_state(model=m), model=m[:2]), "model .Sequential. does not fit the state.*sub"),
        (lambda m, o: restore(training_state(model=nn.Linear(2, 3)), model=nn.Linear(2, 2)), "does not fit.*size mism"),
        (
            lambda m, o: restore(training_state(o=o), o=torch.optim.Adam(m[0].parameters())),
            r"o \(Adam\) does not fit the state: .*Build it as it was",
        ),
    ],
)
def test_error_table(call, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call(*made())


def test_counters_survive_as_such() -> None:
    value = {"milestones": Counter({30: 1, 80: 2})}
    content, tensors = encode(value)
    back = decode(content, tensors)
    assert equal(back, value) and list(back["milestones"].elements()) == [30, 80, 80]
    assert not equal(Counter(a=1), {"a": 1})
    with pytest.raises(InvalidInputError, match="cannot be read"):
        decode({"$": "counter", "items": [[1, "many"]]}, {})


def test_settings_are_described_by_their_values() -> None:
    parameter = nn.Parameter(torch.ones(2))

    class Plain:
        pass

    a = described({"solver": solvers.get("neumann", num_hvps=2), "f": functools.reduce, "g": lambda: 0, "o": Plain()})
    assert a["solver"]["num_hvps"] == 2 and a["solver"]["class"] == "Neumann"
    assert a["f"] == "reduce" and "lambda" in a["g"] and a["o"].endswith("Plain")
    assert described([Status.CONVERGED, torch.float32, torch.tensor(2.0)]) == ["CONVERGED", "torch.float32", 2.0]
    optimizers = [torch.optim.Adam([{"params": [parameter], "lr": lr}]) for lr in (0.1, torch.tensor(0.5))]
    first, second = (described(o) for o in optimizers)
    assert differences(first, second) == ["groups.0.lr was 0.1 and is 0.5"]
    assert first["groups"]["0"]["params"] == 1 and first["groups"]["0"]["betas"] == [0.9, 0.999]
    schedules = [torch.optim.lr_scheduler.MultiStepLR(optimizers[0], m) for m in ([2, 3], [2, 4])]
    assert differences(*(described(s) for s in schedules)) == [
        "milestones.3 was 1 and is absent", "milestones.4 was absent and is 1"
    ]  # fmt: skip
    assert described(torch.ones(3)) != described(torch.zeros(3))
