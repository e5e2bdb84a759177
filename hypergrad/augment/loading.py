"""Read a policy file of either kind."""

from os import PathLike

from hypergrad.augment.fixed import FixedPolicy
from hypergrad.augment.policy import Policy
from hypergrad.files import read_json


def load_policy(path: str | PathLike[str]) -> Policy | FixedPolicy:
    """The policy in a file that :meth:`Policy.save` or :meth:`FixedPolicy.save` wrote, or that was written by hand.

    Raises:
        InvalidInputError: no such file, or a field that cannot be; the message names file, field and value.
        UnknownNameError: an operation that is not registered.
    """
    content = read_json(path).value
    fixed = isinstance(content, dict) and content.get("kind") == "fixed"
    return FixedPolicy.load(path) if fixed else Policy.load(path)
