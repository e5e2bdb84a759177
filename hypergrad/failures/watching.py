"""The first operation that makes a non-finite number of finite ones: its name, its module, its line, its samples."""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hypergrad.version
from hypergrad.augment.operations import Operation

#: Operations that write infinities on purpose (a mask), or memory that nobody has written to yet.
_NO_CAUSE = ("empty", "new_empty", "full", "new_full", "fill", "masked_fill", "scalar_tensor")

#: Key of a module's name in the metadata of the autograd nodes that its forward pass made.
_MODULE = "hypergrad module"

#: Code of ours and of torch, whose lines say nothing to a user.
_INTERNAL = tuple(
    os.path.dirname(os.path.abspath(str(f))) + os.sep for f in (hypergrad.version.__file__, torch.__file__)
)


@dataclass(frozen=True)
class Cause:
    """The first operation that made a non-finite number of finite ones.

    Attributes:
        operation: its name in ATen, such as ``"log"``; empty where none was found.
        dtype: of what it returned, such as ``"float16"``.
        module: the innermost module that ran it, or whose backward pass did, such as ``"model.head"``; empty outside.
        augmentation: the policy's operation that ran it, such as ``"Contrast"``; empty outside.
        backward: the node of the backward pass, such as ``"SqrtBackward0"``; empty in the forward pass.
        line: the innermost line outside of hypergrad and torch, such as ``"train.py:12"``; empty without one.
        rows: of what it returned that are not finite, where it had a row for each sample.
    """

    operation: str = ""
    dtype: str = ""
    module: str = ""
    augmentation: str = ""
    backward: str = ""
    line: str = ""
    rows: tuple[int, ...] = ()

    @property
    def overflow(self) -> bool:
        """Whether the format was too small: float16 ends at 65504."""
        return self.dtype == "float16"


class Watch(TorchDispatchMode):
    """While it is entered, follows numbers that are not finite from the operation that made them; slow.

    An operation with only finite operands is the cause of what it returns; what is made of something that is not finite
    has its cause. So an infinity that is masked out again (``where``, softmax) is not taken for the cause of another.

    Args:
        modules: whose names are wanted, with those of their submodules, by the name of the whole.
        samples: of the batch; 0 where there is none.
    """

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, samples: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._samples = samples
        self._roots = dict(modules or {})
        self._inside: list[str] = []
        # By the memory, which views and what autograd saves share; it is held, so that its address stays its own.
        self._causes: dict[int, tuple[torch.UntypedStorage, Cause]] = {}

    def cause(self, tensor: Tensor) -> Cause:
        """Of a tensor that is not finite; without an operation where it was given."""
        return self._causes.get(tensor.untyped_storage()._cdata, (None, Cause()))[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and look at what it was given and what it returned."""
        name = func.overloadpacket.__name__
        # Before it is run, because it may write in place.
        given = [self.cause(t) for t in tree_leaves((args, kwargs)) if not_finite(t)]
        out = func(*args, **(kwargs or {}))
        if name.rstrip("_").startswith(_NO_CAUSE):
            return out
        bad = [t for t in tree_leaves(out) if not_finite(t)]
        if bad:
            cause = given[0] if given else self._found(name, bad[0])
            for t in bad:
                storage = t.untyped_storage()
                self._causes[storage._cdata] = (storage, cause)
        return out

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """Enter it, and follow the modules; in the backward pass, too."""
        handles = []
        for root, module in self._roots.items():
            for name, part in module.named_modules(prefix=root):
                handles.append(part.register_forward_pre_hook(self._enter(name)))
                handles.append(part.register_forward_hook(self._leave, always_call=True))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that this mode is slow
                # Keeps the lines of the forward pass with the nodes; the search for NaN is done here.
                anomaly = torch.autograd.set_detect_anomaly(True, check_nan=False)
            with anomaly, self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._inside.append(name)

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self._inside.pop()
        left: list[Any] = [t.grad_fn for t in tree_leaves(output) if isinstance(t, Tensor)]
        stop = {t.grad_fn for t in tree_leaves(args) if isinstance(t, Tensor)}
        while left:
            node = left.pop()
            # Submodules were left before, so what has a name has that of the innermost one.
            if node is None or node in stop or _MODULE in node.metadata:
                continue
            node.metadata[_MODULE] = name
            left.extend(after for after, _ in node.next_functions)

    def _found(self, name: str, bad: Tensor) -> Cause:
        node: Any = torch._C._current_autograd_node()
        each = bool(self._samples and bad.ndim and bad.shape[0] == self._samples)
        rows = tuple(bad_rows(bad)) if each else ()
        dtype = str(bad.dtype).removeprefix("torch.")
        if node is not None:
            module, line = node.metadata.get(_MODULE, ""), _last_line(node.metadata.get("traceback_", []))
            return Cause(name, dtype, module, "", node.name(), line, rows)
        augmentation, line = _of_frames(sys._getframe(1))
        return Cause(name, dtype, self._inside[-1] if self._inside else "", augmentation, "", line, rows)


def not_finite(value: object) -> bool:
    """Whether it is a floating-point tensor with a NaN or an infinity."""
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())


def bad_rows(tensor: Tensor) -> list[int]:  # (N, ...)
    """The rows that are not finite."""
    rows: list[int] = (~tensor.isfinite()).reshape(len(tensor), -1).any(1).nonzero().flatten().tolist()
    return rows


def _of_frames(frame: FrameType | None) -> tuple[str, str]:
    """The operation of a policy that is running, and the innermost line of a user."""
    augmentation = line = ""
    while frame is not None and not (augmentation and line):
        holder = frame.f_locals.get("self")
        if isinstance(holder, Operation):
            augmentation = augmentation or holder.name
        file = os.path.abspath(frame.f_code.co_filename)
        if not line and not file.startswith(_INTERNAL):
            line = f"{os.path.basename(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return augmentation, line


def _last_line(traceback: list[str]) -> str:
    """The same of a traceback as torch keeps it: entries ``File "...", line 12, in f``, the innermost one last."""
    for entry in reversed(traceback):
        head = entry.strip().split("\n")[0].split('"')
        if len(head) == 3 and not os.path.abspath(head[1]).startswith(_INTERNAL):
            return f"{os.path.basename(head[1])}:{head[2].split(',')[1].split()[-1]}"
    return ""
