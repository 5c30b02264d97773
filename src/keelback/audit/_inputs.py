"""What a model is run on: token ids, or any tensors (images, sound, series)."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keelback.audit.checkpoints._memory import is_out_of_memory
from keelback.errors import InputError, in_one_line

Inputs = Mapping[str, Any] | Tensor
"""A tensor, or tensors by the names under which the model takes them, the batch first."""

PositionLoss = Callable[[Any], Tensor]
"""Makes losses `(batch, length)` of what the model gives."""


def are_tokens(inputs: Any) -> bool:
    """Whether the inputs are ids: whole numbers in a list or in a tensor of one or two axes."""
    if isinstance(inputs, Mapping):
        return False
    if isinstance(inputs, Tensor):
        whole = not inputs.is_floating_point() and not inputs.is_complex()
        return whole and inputs.dtype != torch.bool and inputs.ndim <= 2
    return isinstance(inputs, Sequence)


def one_by_one(inputs: Inputs, device: torch.device) -> Iterator[Inputs]:
    """The batch's members, each a batch of one, on the device.

    Raises:
        InputError: no tensor among the inputs, or none with a batch axis.
    """
    tensors = {"": inputs} if isinstance(inputs, Tensor) else inputs
    sizes = [x.shape[0] for x in tensors.values() if isinstance(x, Tensor) and x.ndim > 0]
    if not sizes:
        raise InputError(
            "inputs must be a tensor, or a mapping with tensors, whose first axis is the batch"
        )
    for i in range(sizes[0]):
        own = {name: _member(x, i, sizes[0], device) for name, x in tensors.items()}
        yield own[""] if isinstance(inputs, Tensor) else own


def _member(x: Any, index: int, batch: int, device: torch.device) -> Any:
    if not isinstance(x, Tensor):
        return x
    return (x[index : index + 1] if x.ndim > 0 and x.shape[0] == batch else x).to(device)


def call(model: nn.Module, inputs: Inputs) -> Any:
    """What the model gives on `inputs`.

    Raises:
        InputError: the model's own code fails on them.
    """
    with failures_of(model):
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(inputs)


@contextmanager
def failures_of(model: nn.Module) -> Iterator[None]:
    """Within the block, which runs the model, whatever its own code raises is told as wrong input.

    Not what memory lacks, nor what comes of those who watch the model from here.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or _comes_of_here(error):
            raise
        raise InputError(
            f"{type(model).__name__} cannot be run as it is: {in_one_line(error)}"
        ) from error


_HERE = Path(__file__).resolve().parent


def _comes_of_here(error: Exception) -> bool:
    """Whether code of this room, called back from the model's, is among what raised it."""
    frames = traceback.walk_tb(error.__traceback__)
    ours = [_HERE in Path(frame.f_code.co_filename).parents for frame, _ in frames]
    return any(ours[ours.index(False) :]) if False in ours else True


def floating_output(output: Any) -> Tensor:
    """The largest floating tensor of what a model gave, wherever it is in there.

    Raises:
        InputError: there is none.
    """
    found = list(floating_tensors(output))
    if not found:
        raise InputError(
            f"the model gives a {type(output).__name__} without a floating tensor in it"
        )
    return max(found, key=lambda x: x.numel())


def floating_tensors(output: Any) -> Iterator[Tensor]:
    """Every floating tensor in what a model gave, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from floating_tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from floating_tensors(value)
