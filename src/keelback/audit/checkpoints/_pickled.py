"""Where the tensors lie in a file that `torch.save` wrote; its pickle is read for tensors alone."""

import pickle
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keelback.errors import InputError


@dataclass(frozen=True)
class PickledTensor:
    """Type, shape and place in the file of one tensor; no place if it is not in one piece."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    place: tuple[int, int] | None


def pickled_tensors(file: Path) -> dict[str, PickledTensor]:
    """The tensors of a state dict that `torch.save` wrote, by name.

    In the format of PyTorch before 1.6 tensors have no fixed place.

    Raises:
        InputError: objects other than tensors in it, a damaged file, or no state dict.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    places = zipfile.is_zipfile(file)
    try:
        with FakeTensorMode() if places else nullcontext():
            where = "cpu" if places else "meta"
            state: Any = torch.load(file, map_location=where, weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{file} holds pickled objects other than tensors, which could run code; "
            "save it as safetensors instead"
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged or cut off ({str(error)[:160]})") from None
    if not isinstance(state, Mapping):
        raise InputError(f"{file} holds a {type(state).__name__}, not a state dict")
    return {
        str(name): PickledTensor(value.dtype, tuple(value.shape), _place(value))
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _place(tensor: Tensor) -> tuple[int, int] | None:
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if offset is None or not tensor.is_contiguous():
        return None
    start = int(offset) + int(tensor.storage_offset()) * tensor.element_size()
    return start, start + int(tensor.numel()) * tensor.element_size()
