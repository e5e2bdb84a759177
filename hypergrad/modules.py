"""A module as a pure function of its parameters, and which modules cannot be one."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hypergrad.errors import InvalidInputError, UnsupportedModelError

# By name, so that nothing of torch.distributed is imported for a look.
_REFUSED = {
    "FullyShardedDataParallel": "its parameters are sharded, so no rank can form a Hessian product over all of them",
    "FSDPModule": "its parameters are sharded, so no rank can form a Hessian product over all of them",
    "SyncBatchNorm": "it has no double backward (pytorch#61222)",
    "DistributedDataParallel": "its gradient hooks are bypassed by Hessian products, which would be left unreduced",
    "DataParallel": "its replicas are rebuilt in every forward pass and cannot be differentiated twice",
}
_REMEDY = {
    "FullyShardedDataParallel": "Use the bare module on every rank: hypergrad reduces over the ranks itself.",
    "FSDPModule": "Use the bare module on every rank: hypergrad reduces over the ranks itself.",
    "SyncBatchNorm": "Use BatchNorm (each rank normalises by its own shard's statistics) or GroupNorm.",
    "DistributedDataParallel": "Pass its .module: hypergrad reduces over the ranks itself.",
    "DataParallel": "Pass its .module.",
}


def check_model(model: nn.Module) -> None:
    """Refuse a model whose second derivatives would be wrong or unavailable.

    Raises:
        InvalidInputError: not an ``nn.Module``, or nothing in it requires grad.
        UnsupportedModelError: FSDP, DDP, DataParallel or SyncBatchNorm; the message gives the reason and the remedy.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    for name, module in model.named_modules():
        for cls in type(module).__mro__:
            if cls.__name__ in _REFUSED:
                where = f"submodule {name!r}" if name else "the model"
                raise UnsupportedModelError(
                    f"{where} is a {cls.__name__}: {_REFUSED[cls.__name__]}. {_REMEDY[cls.__name__]}"
                )
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidInputError("No parameter of the model requires grad, so there is no inner problem.")


def functional(model: nn.Module) -> Callable[..., Any]:
    """``call(params, *inputs)``: the model as a pure function of its parameters.

    Buffers are cloned inside the call, so that train-mode BatchNorm works under ``torch.func`` and its running
    statistics stay as they were. Parameters that ``params`` lacks keep the model's values.

    Args:
        model: any module; its train/eval flags are used as they stand at each call.

    Returns:
        ``call(params, *args, **kwargs)``, with ``params`` a dict as ``dict(model.named_parameters())``.

    Raises:
        InvalidInputError: ``params`` has a key that is no parameter of the model.
        UnsupportedModelError: see :func:`check_model`.

    Example:
        >>> import torch, hypergrad
        >>> model = torch.nn.Linear(3, 1)
        >>> call = hypergrad.functional(model)
        >>> params = {name: p.detach() for name, p in model.named_parameters()}
        >>> call(params, torch.ones(2, 3)).shape
        torch.Size([2, 1])
    """
    check_model(model)
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def call(params: Mapping[str, Tensor], /, *args: Any, **kwargs: Any) -> Any:
        unknown = [k for k in params if k not in known]
        if unknown:
            raise InvalidInputError(f"params has keys {unknown} that are no parameters of the model ({sorted(known)}).")
        return call_module(model, params, *args, **kwargs)

    return call


def call_module(module: nn.Module, tensors: Mapping[str, Tensor], /, *args: Any, **kwargs: Any) -> Any:
    """``functional_call`` with the buffers cloned, inside whatever transform is being traced."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return functional_call(module, {**buffers, **tensors}, args, kwargs)
