"""What every CUDA kernel is compiled with: the numbers that are stored and computed with."""

from collections.abc import Mapping

import torch

STORED_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
}


def header_text(
    dtype: torch.dtype,
    types: Mapping[str, torch.dtype],
    integers: Mapping[str, int],
    flags: Mapping[str, bool],
) -> str:
    """`configuration.h`: the numbers that are stored and computed with, and constants by name."""
    real = "double" if dtype == torch.float64 else "float"
    stored = {"Stored": dtype, **types}
    return "\n".join(
        [
            "#pragma once",
            '#include "numbers.cuh"',
            f"using Real = {real};",
            *(f"using {name} = {STORED_TYPES[type_]};" for name, type_ in stored.items()),
            *(f"constexpr int {name} = {value};" for name, value in integers.items()),
            *(f"constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()),
            "",
        ]
    )
