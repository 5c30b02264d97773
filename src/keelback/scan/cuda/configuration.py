"""What a kernel is specialised for: the constants that it is compiled with."""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import ClassVar

import torch

from keelback.compiled.cuda_header import header_text

WARP = 32
#: The matrix unit adds over four lanes. It keeps 11 bits of what it adds, more than bfloat16 has.
MATRIX_LANES = 4
#: States of steps that a thread of `reverse.cu` keeps in registers, in 32-bit words, and steps.
REVERSE_WORDS = 32
REVERSE_STEPS = 16
#: Of the exponentials of a sweep that has no adjoint, every which one is a polynomial's.
SWEEP_POLYNOMIALS = 10


@dataclass(frozen=True)
class Configuration:
    """The constants of `configuration.h`; `kernels/place.cuh` says what a thread holds."""

    sources: ClassVar[str] = "keelback.scan.cuda"

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
        """Steps whose states a thread of `reverse.cu` keeps in registers."""
        words = self.states_per_thread * (2 if self.dtype == torch.float64 else 1)
        return min(self.tile, REVERSE_STEPS, max(REVERSE_WORDS // words, 4))

    @cache  # noqa: B019 - configurations are few, and kept by the kernels anyway
    def for_output(self, spanned: bool) -> "Configuration":
        """For `scan_forward`."""
        return replace(self, spanned=spanned)

    @cached_property
    def for_correcting(self) -> "Configuration":
        """For `correct.cu`, whose matrix unit wants the states of a channel side by side."""
        return replace(self, has_d=False, steps=min(self.tile, 8), state_stride=1)

    @cache  # noqa: B019
    def for_sweeping(self, spanned: bool) -> "Configuration":
        """For `sweep.cu`, which has no output to skip, and a gate only for its adjoint."""
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
        """For `reverse.cu`, which keeps the states and decays of its steps in registers."""
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
