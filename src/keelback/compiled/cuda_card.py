"""What plans of kernels need to know of a GPU."""

from dataclasses import dataclass
from functools import cache

import torch

from keelback.compiled.cuda_driver import processors_of


@dataclass(frozen=True)
class Card:
    """What a plan needs to know of a GPU."""

    processors: int
    shared_bytes: int  # of a block, at most
    wide: bool = False  # whether warpgroups multiply: on Hopper
    multiplies: bool = True  # whether it has matrix units for bfloat16


@cache
def card_of(device: torch.device) -> Card:
    """What a plan needs to know of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 96 << 10)
    capability = (properties.major, properties.minor)
    return Card(processors_of(device), shared, capability == (9, 0), capability >= (8, 0))


def planes_of(dtype: torch.dtype) -> int:
    """Numbers of sixteen bits for each: for float32 three, or two where TF32 is allowed."""
    if dtype != torch.float32:
        return 1
    return 2 if torch.backends.cuda.matmul.allow_tf32 else 3
