"""What a kernel is specialised for: the constants that it is compiled with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch

STORED_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
}
WARP = 32
#: The matrix unit adds over four lanes. It keeps 11 bits of what it adds, more than bfloat16 has.
MATRIX_LANES = 4
#: States of steps that a thread of `scan_reverse` keeps in registers, in 32-bit words, and steps.
REVERSE_WORDS = 32
REVERSE_STEPS = 16
#: Of the exponentials of a sweep that has no adjoint, every which one is a polynomial's.
SWEEP_POLYNOMIALS = 10


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


@dataclass(frozen=True)
class Configuration:
    """The constants of `configuration.h`; `kernels/place.cuh` says what a thread holds."""

    dtype: torch.dtype
    states: int
    states_per_thread: int
    state_lanes: int
    state_stride: int
    channels: int
    steps: int = 8
    tile: int = 32
    vector: int = 1
    state_vector: int = 1
    blocks_per_processor: int = 1
    softplus: bool = False
    has_d: bool = False
    has_z: bool = False
    has_reset: bool = False
    shared_delta: bool = False
    dense: bool = False
    matrix_sums: bool = False
    polynomials: int = 0
    add_grouped: bool = False
    narrow_grouped: bool = False
    add_parameters: bool = False
    spanned: bool = False

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.state_lanes * self.channels

    @property
    def reverse_steps(self) -> int:
        """Steps whose states a thread of `scan_reverse` keeps in registers."""
        words = self.states_per_thread * (2 if self.dtype == torch.float64 else 1)
        return min(self.tile, REVERSE_STEPS, max(REVERSE_WORDS // words, 4))

    @cache  # noqa: B019 - configurations are few, and kept by the kernels anyway
    def for_output(self, spanned: bool) -> "Configuration":
        """For `scan_forward`."""
        return replace(self, spanned=spanned)

    @cached_property
    def for_correcting(self) -> "Configuration":
        """For `scan_correct`, whose matrix unit wants the states of a channel side by side."""
        return replace(self, has_d=False, steps=min(self.tile, 8), state_stride=1)

    @cache  # noqa: B019
    def for_sweeping(self, spanned: bool) -> "Configuration":
        """For `scan_sweep`, which has no output to skip, and a gate only for its adjoint."""
        return replace(
            self,
            spanned=spanned,
            polynomials=0 if spanned or self.dtype == torch.float64 else SWEEP_POLYNOMIALS,
            has_d=False,
            has_z=self.has_z and spanned,
        )

    @cache  # noqa: B019
    def for_reversing(
        self,
        spanned: bool,
        add_grouped: bool,
        narrow_grouped: bool,
        add_parameters: bool,
    ) -> "Configuration":
        """For `scan_reverse`, which keeps the states and decays of its steps in registers."""
        matrix_sums = (
            self.state_lanes == MATRIX_LANES and self.dtype == torch.bfloat16 and not self.has_z
        )
        return replace(
            self,
            spanned=spanned,
            add_grouped=add_grouped,
            narrow_grouped=narrow_grouped,
            add_parameters=add_parameters,
            matrix_sums=matrix_sums,
            state_stride=WARP // MATRIX_LANES if matrix_sums else self.state_stride,
            steps=self.reverse_steps,
        )

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {
            "kStates": self.states,
            "kStatesPerThread": self.states_per_thread,
            "kStateLanes": self.state_lanes,
            "kStateStride": self.state_stride,
            "kChannels": self.channels,
            "kSteps": self.steps,
            "kTile": self.tile,
            "kVector": self.vector,
            "kStateVector": self.state_vector,
            "kBlocksPerProcessor": self.blocks_per_processor,
            "kPolynomials": self.polynomials,
        }
        flags = {
            "kSoftplus": self.softplus,
            "kHasD": self.has_d,
            "kHasZ": self.has_z,
            "kHasReset": self.has_reset,
            "kSharedDelta": self.shared_delta,
            "kDense": self.dense,
            "kAddGrouped": self.add_grouped,
            "kNarrowGrouped": self.narrow_grouped,
            "kSpanned": self.spanned,
            "kMatrixSums": self.matrix_sums,
            "kAddParameters": self.add_parameters,
        }
        return header_text(self.dtype, {}, integers, flags)
