"""What the paper reports, to stand beside what was measured. No cell of a table is ever filled from here.

Source: Hataya, Zdenek, Yoshizoe, Nakayama, "Meta Approach to Data Augmentation Optimization", WACV 2022 (arXiv
2006.07965). Means of three runs; the paper's tables give no spread.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Hataya et al., WACV 2022 (arXiv 2006.07965)"

#: Rows of the paper's tables, by the names that they have here.
ROWS = ("standard", "faster-autoaugment", "randaugment", "madao")

#: How the paper writes what is called by a registered name here.
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "imagenet": "ImageNet",
    "flowers102": "Oxford Flowers 102",
    "pets": "Oxford-IIIT Pets",
    "aircraft": "FGVC Aircraft",
    "cars": "Stanford Cars",
    "wrn-28-2": "WRN-28-2",
    "wrn-40-2": "WRN-40-2",
    "wrn-28-10": "WRN-28-10",
    "densenet-bc-40-12": "DenseNet-BC 40 (k=12)",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
}


@dataclass(frozen=True)
class Reported:
    """A column of one of the paper's tables.

    Attributes:
        table: its number.
        data, model: registered names.
        error: test error in percent, by row.
        top5: top-5 test error in percent, by row; empty where the paper gives none.
    """

    table: int
    data: str
    model: str
    error: Mapping[str, float]
    top5: Mapping[str, float]

    @property
    def title(self) -> str:
        """``CIFAR-10, WRN-28-2``."""
        return f"{TITLES[self.data]}, {TITLES[self.model]}"


def _column(table: int, data: str, model: str, *errors: float, top5: tuple[float, ...] = ()) -> Reported:
    return Reported(
        table, data, model, dict(zip(ROWS, errors, strict=True)), dict(zip(ROWS, top5, strict=True)) if top5 else {}
    )


REPORTED = (
    _column(2, "cifar10", "wrn-28-2", 4.9, 4.2, 4.4, 4.0),
    _column(2, "cifar10", "wrn-40-2", 4.8, 3.9, 4.1, 3.7),
    _column(2, "cifar10", "wrn-28-10", 3.8, 2.7, 3.1, 2.7),
    _column(2, "cifar10", "densenet-bc-40-12", 5.6, 4.6, 4.8, 4.5),
    _column(2, "cifar100", "wrn-28-2", 25.4, 23.2, 24.0, 22.9),
    _column(2, "cifar100", "wrn-40-2", 24.1, 22.5, 23.0, 22.4),
    _column(2, "svhn", "wrn-28-2", 3.4, 2.6, 3.0, 2.6),
    _column(2, "svhn", "wrn-40-2", 3.2, 2.5, 2.8, 2.4),
    _column(3, "imagenet", "resnet50", 23.8, 23.0, 22.9, 22.5, top5=(7.0, 6.5, 6.6, 6.5)),
    _column(4, "flowers102", "resnet18", 11.1, 9.1, 8.8, 8.1),
    _column(4, "pets", "resnet18", 15.3, 12.8, 13.7, 11.9),
    _column(4, "aircraft", "resnet18", 11.1, 10.3, 10.0, 9.8),
    _column(4, "cars", "resnet18", 14.7, 13.6, 11.6, 11.4),
)

#: Table 5, test error in percent on CIFAR-10 with WRN-28-2, by solver.
SOLVERS = {"neumann": 4.0, "cg": 4.4, "first_order": 4.4}

#: Section 5.4, MADAO over RandAugment: hours of training, and gigabytes of GPU memory.
COST = {"hours": (1.9, 1.0), "gigabytes": (3.38, 1.74)}


def columns(table: int, data: str | None = None) -> list[Reported]:
    """The columns of a table, or those of one data set in it, in the paper's order."""
    return [column for column in REPORTED if column.table == table and data in (None, column.data)]
