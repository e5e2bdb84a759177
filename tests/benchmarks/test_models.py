from _models import parameter_count
from torch import nn


def test_frozen_tensors_and_buffers_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert parameter_count(model) == 3 * 4 + 4 + 4 + 4
    model[0].weight.requires_grad_(False)
    assert parameter_count(model) == 4 + 4 + 4
