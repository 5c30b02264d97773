"""Calls with the options of flash-linear-attention (fla): packing, layouts of states, refusals."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.resets import reset_of
from keelback.errors import InputError
from keelback.integrations._widths import in_one_width

Compute = Callable[[Sequence[Tensor], Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
"""From operands (batch, length, ...), states (key, value) per head or None, and the bounds of
packed sequences or None: the outputs, and the states after the last step."""

#: Options of fla's functions that say how it computes, and not what.
HOW = (
    "chunk_size",
    "chunk_indices",
    "cu_seqlens_cpu",
    "safe_gate",
    "disable_recompute",
    "use_graph",
    "max_num_seqs",
)
#: Those that are refused unless they are off: they change what is computed or returned.
_REFUSED = ("cp_context", "return_intermediate_states", "head_first", "gv", "reverse")


def called(
    name: str,
    compute: Compute,
    operands: Sequence[Tensor],
    value: Tensor,
    initial_state: Tensor | None,
    output_final_state: bool,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """The outputs in the dtype of `value`, and the final states or None.

    Raises:
        InputError: An option is unknown, or cannot be honoured.
    """
    more = {key: option for key, option in options.items() if key not in HOW}
    bounds = more.pop("cu_seqlens", None)
    value_first = more.pop("state_v_first", False) or more.pop("transpose_state_layout", False)
    refused = [key for key, option in more.items() if key not in _REFUSED or option]
    if refused:
        raise InputError(f"keelback's {name} does not take {', '.join(refused)}")
    if initial_state is not None and value_first:
        initial_state = initial_state.mT
    *given, states = in_one_width(*operands, initial_state)
    if bounds is None:
        y, last = compute(given, states, None)
    elif len(value) != 1:
        raise InputError(f"cu_seqlens is given with a batch of {len(value)}; it should be 1")
    else:
        reset_of(bounds, None, value)  # Refuses bounds that do not fit the sequences.
        if states is None and not output_final_state:
            y, last = compute(given, None, bounds)
        else:
            y, last = _one_by_one(compute, given, states, bounds)
    last = last.mT.contiguous() if value_first else last
    return y.to(value.dtype), last if output_final_state else None


def _one_by_one(
    compute: Compute, given: Sequence[Tensor], states: Tensor | None, bounds: Tensor
) -> tuple[Tensor, Tensor]:
    """Sequences one behind the other, each with states of its own."""
    ends = [int(bound) for bound in bounds]
    if states is not None and len(states) != len(ends) - 1:
        raise InputError(
            f"initial_state is of {len(states)} sequences; cu_seqlens has {len(ends) - 1}"
        )
    found = [
        compute(
            [x[:, start:stop] for x in given], None if states is None else states[i : i + 1], None
        )
        for i, (start, stop) in enumerate(pairwise(ends))
    ]
    outputs, lasts = zip(*found, strict=True)
    return torch.cat(outputs, 1), torch.cat(lasts)


def wide(x: Tensor) -> torch.dtype:
    """In which dtype something is computed of x."""
    return torch.promote_types(x.dtype, torch.float32)
