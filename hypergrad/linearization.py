"""One graph of the inner gradient, kept: Hessian products and the cross term are backward passes over it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from hypergrad.errors import InvalidInputError
from hypergrad.interruption import poll
from hypergrad.keys import preserved_rng
from hypergrad.second_order import Towards, replaced
from hypergrad.tree import Layout, TensorDict

#: Above this many parameters a dense Hessian is refused: 20,000 squared is 3.2 GB in float64.
DENSE_LIMIT = 20_000


#: Of the forward pass inside a linearisation; vectors and parameters stay in the parameters' dtype.
Precision = Literal["float32", "bfloat16"]


@contextmanager
def differentiable(device: torch.device, precision: Precision = "float32") -> Iterator[None]:
    """Gradients on, and autocast as asked, whatever the caller has around."""
    lower = precision == "bfloat16"
    # Without the cache of casts: a cached cast would belong to the graph of another linearisation.
    with (
        torch.enable_grad(),
        torch.autocast(device.type, torch.bfloat16 if lower else None, enabled=lower, cache_enabled=False),
    ):
        yield


@contextmanager
def twice_differentiable(device: torch.device, precision: Precision = "float32") -> Iterator[None]:
    """What a loss needs around it to be differentiated twice: gradients on, full precision, unfused attention.

    Fused attention has no double backward, and a Hessian taken under autocast is off by about one percent.
    """
    with differentiable(device, precision), sdpa_kernel(SDPBackend.MATH):
        yield


def leaves(tensors: Mapping[str, Tensor]) -> TensorDict:
    """Detached views that require grad: values to differentiate at, which leave the caller's tensors alone."""
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def check_scalar(loss: object, name: str) -> Tensor:
    """``loss`` if it is a 0-d floating-point tensor.

    Raises:
        InvalidInputError: it is not; the message says what it is.
    """
    if not isinstance(loss, Tensor):
        raise InvalidInputError(f"{name} must return a scalar tensor; got {type(loss).__name__}.")
    if loss.ndim != 0 or not loss.is_floating_point():
        raise InvalidInputError(
            f"{name} must return a floating-point scalar (shape ()); got shape {tuple(loss.shape)}, {loss.dtype}. "
            "Reduce it, for example with .mean()."
        )
    return loss


#: The code of the wrapper that ``once_differentiable`` puts around a backward pass.
_ONCE: Any = once_differentiable(print).__code__


def check_double_backward(value: Tensor, params: Mapping[str, Tensor]) -> None:
    """Refuse a loss that reaches ``params`` through a backward pass marked ``once_differentiable``.

    The mark raises only when that backward pass is itself back-propagated through, and a backward pass towards given
    inputs leaves it out: the second derivatives behind it would be 0 without a word.

    Raises:
        InvalidInputError: there is one; names the function.
    """
    for node in _nodes(value.grad_fn):
        function = getattr(node, "_forward_cls", None)  # of Python's functions only
        if function is None or getattr(function.backward, "__code__", None) is not _ONCE:
            continue
        reached = {id(n.variable) for n in _nodes(node) if hasattr(n, "variable")}
        if any(id(p) in reached for p in params.values()):
            raise InvalidInputError(
                f"inner_loss uses {function.__name__}, an autograd.Function whose backward is marked "
                "once_differentiable, so its second derivatives are missing. Write that backward with differentiable "
                "operations and without the mark, or use first derivatives only: "
                "Implicit(curvature='finite-difference')."
            )


def _nodes(root: Node | None) -> Iterator[Node]:
    """The nodes of a graph, each once."""
    left = [] if root is None else [root]
    seen = set(left)
    while left:
        node = left.pop()
        yield node
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                left.append(after)


class Curvature(ABC):
    """The inner loss at one point as a solver and an estimator see it: ``A = curvature + damping I``, and the rest.

    Satisfies :class:`hypergrad.solvers.LinearOperator`.

    Args:
        params: the point ``w``; P elements in all.
        hparams: the point ``h``.
        damping: added to the diagonal of ``A``.

    Attributes:
        matvecs: products with ``A`` so far.
    """

    _value: Tensor
    _gradient: Tensor

    def __init__(self, params: Mapping[str, Tensor], hparams: Mapping[str, Tensor], damping: float) -> None:
        self.layout = Layout.of(params, "params")
        self.damping = damping
        self.matvecs = 0
        self._params = leaves(params)
        self._hparams = leaves(hparams)

    @abstractmethod
    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """The curvature times ``v``, without damping and uncounted."""

    @abstractmethod
    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """``[d2f/dh dw] x`` for ``x`` ``(P,)``, like ``hparams``; None where the inner gradient does not reach h."""

    @property
    def value(self) -> Tensor:  # ()
        """The inner loss, detached."""
        return self._value

    @property
    def gradient(self) -> Tensor:  # (P,)
        """``df/dw``, flat and detached."""
        return self._gradient

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``."""
        return (self.layout.size, self.layout.size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the flat vectors."""
        return self.layout.dtype

    @property
    def device(self) -> torch.device:
        """Of the flat vectors."""
        return self.layout.device

    def __matmul__(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """``A v``, counted; here a signal breaks off a solve (:func:`hypergrad.interruption.poll`)."""
        poll()
        self.matvecs += 1
        product = self.product(v)
        return product + self.damping * v if self.damping else product

    def dense(self) -> Tensor:  # (P, P)
        """The whole matrix, by P products: an oracle for small problems.

        Raises:
            InvalidInputError: more than ``DENSE_LIMIT`` parameters.
        """
        if self.layout.size > DENSE_LIMIT:
            raise InvalidInputError(
                f"A dense Hessian of {self.layout.size} parameters is too large (limit {DENSE_LIMIT}); "
                "use an iterative solver ('cg', 'neumann'), or a smaller model."
            )
        eye = torch.eye(self.layout.size, dtype=self.dtype, device=self.device)
        return torch.stack([self @ row for row in eye], dim=1)

    def flat(self, parts: Sequence[Tensor | None]) -> Tensor:  # (P,)
        """One flat vector from tensors like the parameters, where None is 0."""
        entries = zip(self._params.values(), parts, strict=True)
        return self.layout.flatten([torch.zeros_like(p, requires_grad=False) if d is None else d for p, d in entries])


class Linearization(Curvature):
    """The inner loss at one point, linearised once: ``A = H + damping I`` and the cross derivative.

    The gradient with respect to detached views of the parameters is formed once, with its graph. Every product is one
    backward pass over that graph and asks only for what it needs: parameters for ``A @ v``, hyperparameters for
    :meth:`cross_vjp`. Whatever noise the loss drew is part of the graph, hence the same in every product. Convolutions
    and normalisation layers are differentiated by functions of our own (:mod:`hypergrad.second_order`), which is where
    a product by plain double backward loses a sixth of its time.

    Args:
        loss: ``loss(params, hparams) -> scalar``, evaluated once.
        params: the point ``w``; P elements in all.
        hparams: the point ``h``.
        damping: added to the diagonal of ``A``.
        precision: of the forward pass, see :data:`Precision`.
        products: whether products will be asked for; where only the cross term will be, torch's own layers are used,
            whose first backward pass has less overhead.

    Raises:
        InvalidInputError: the loss is no scalar, does not depend on the parameters, or cannot be differentiated twice.
    """

    def __init__(
        self,
        loss: Callable[[TensorDict, TensorDict], Tensor],
        params: Mapping[str, Tensor],
        hparams: Mapping[str, Tensor],
        *,
        damping: float = 0.0,
        precision: Precision = "float32",
        products: bool = True,
    ) -> None:
        super().__init__(params, hparams, damping)
        ours = products and precision == "float32"
        with twice_differentiable(self.layout.device, precision):
            value, grads = _kept_gradient(loss, self._params, self._hparams, ours=ours)
        check_double_backward(value, self._params)
        self._value = value.detach()
        # One tensor, so that a product has one output. An entry that is linear in everything has no graph: its rows of
        # H and of the cross derivative are 0.
        self._flat = self.layout.flatten(grads)  # (P,)
        self._gradient = self._flat.detach()
        if not self._flat.requires_grad and not bool(self._gradient.any()):
            raise InvalidInputError(
                "inner_loss does not depend on params: compute it from the params argument, without detach or no_grad."
            )

    def product(self, v: Tensor) -> Tensor:  # (P,) -> (P,)
        """``H v``, one backward pass."""
        return self.flat(self._vjp(v, list(self._params.values())))

    def cross_vjp(self, x: Tensor) -> dict[str, Tensor | None]:
        """``[d2f/dh dw] x`` for ``x`` ``(P,)``, like ``hparams``; None where the inner gradient does not reach h."""
        return dict(zip(self._hparams, self._vjp(x, list(self._hparams.values())), strict=True))

    def _vjp(self, v: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
        if not self._flat.requires_grad:
            return [None] * len(inputs)
        return list(torch.autograd.grad(self._flat, inputs, v, retain_graph=True, allow_unused=True))


def _kept_gradient(
    loss: Callable[[TensorDict, TensorDict], Tensor], params: TensorDict, hparams: TensorDict, *, ours: bool
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its gradient with respect to ``params``, both with a graph to ``params`` and ``hparams``.

    With ``ours``, layers are those of :mod:`hypergrad.second_order` (under autocast torch casts the arguments of its
    own functions only).
    """
    device = next(iter(params.values())).device
    with preserved_rng(device), replaced(Towards()) if ours else nullcontext():
        value = check_scalar(loss(params, hparams), "inner_loss")
        wanted = list(params.values())
        found = (
            torch.autograd.grad(value, wanted, create_graph=True, allow_unused=True)
            if value.requires_grad
            else [None] * len(wanted)
        )
    return value, [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]
