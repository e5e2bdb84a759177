"""A search whose trainings count their steps by process; a script: ``python -m tests.vision._counted FOLDER``."""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from hypergrad.vision import resuming
from hypergrad.vision.config import TrainConfig
from hypergrad.vision.searching import search_and_record

# A checkpoint after every epoch, also of trainings this short, in the script and its workers; not in the tests'
# own process, which imports this module for its constants.
if "STEPS" in os.environ:
    resuming.GUESS, resuming.SHARE = 0.0, 1e9

CONFIG = TrainConfig(
    model={"name": "tests.vision._counted:Net"},
    data={"train_size": 64, "test_size": 20, "validation": 20},
    epochs=40,
    batch_size=16,
    threads=1,
)
STEPS = 40 * 4


class Net(nn.Module):
    """Linear; each step of a training leaves the number of its process in a file."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(num_classes)
        self.linear(torch.zeros(1, 64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with open(os.environ["STEPS"], "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
        return self.linear(x.flatten(1))


if __name__ == "__main__":
    search_and_record(CONFIG, "randaugment", Path(sys.argv[1]), workers=2, progress=False)
