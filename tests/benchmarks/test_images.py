import torch
from _images import Part, read_digits
from sklearn.datasets import load_digits


def test_the_digits_are_scikit_learns_in_unit_range() -> None:
    digits, known = read_digits(), load_digits()
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == torch.float32
    assert torch.equal(digits.images[:, 0].double() * 16, torch.tensor(known.images))
    assert torch.equal(digits.labels, torch.tensor(known.target))


def test_rows_are_taken_in_their_order() -> None:
    part = Part(torch.arange(4.0).view(4, 1, 1, 1), torch.arange(4)).take(torch.tensor([3, 1]))
    assert part.images.flatten().tolist() == [3, 1] and part.labels.tolist() == [3, 1]
