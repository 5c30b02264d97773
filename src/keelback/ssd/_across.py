"""One long sequence over several processes, each of which scans its part of the length by heads."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from keelback.compiled.across import (
    adjoints_between,
    gathered,
    refuse_second_derivatives,
    require_processes,
    states_between,
)
from keelback.compiled.decay import FORGOTTEN, decayed
from keelback.compiled.watchers import without_autocast
from keelback.errors import InputError
from keelback.ssd._api import ssd
from keelback.ssd._operands import Operands, require_ssd
from keelback.ssd.reference import NO_LIMIT, DtLimit, steps_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # Not in every build of PyTorch.


def ssd_across(
    x: Float[Tensor, "batch length heads head_dim"],
    dt: Float[Tensor, "batch length heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads head_dim"] | None = None,
    z: Float[Tensor, "batch length heads head_dim"] | None = None,
    dt_bias: Float[Tensor, " heads"] | None = None,
    dt_softplus: bool = False,
    dt_limit: DtLimit = NO_LIMIT,
    initial_states: Float[Tensor, "batch heads head_dim state"] | None = None,
    return_final_states: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    group: "ProcessGroup | None" = None,
) -> (
    Float[Tensor, "batch length heads head_dim"]
    | tuple[
        Float[Tensor, "batch length heads head_dim"], Float[Tensor, "batch heads head_dim state"]
    ]
):
    """`ssd` of one sequence that is cut along its length over the processes of a group.

    Each process passes its own part and gets the output of that part: process r those steps that
    follow process r - 1's. Parts may differ in length. The result is that of one scan over the
    whole, gradients included; gradients of A, D and dt_bias are those of the part, to be summed
    over the processes. All processes of the group call it, and its backward pass, together.

    Each part is scanned from zero. Processes exchange the states at the ends of the parts and the
    decays over them, and each adds to its outputs what the states before its part give them (the
    sum that joins the chunks of one scan: Dao and Gu 2024, arXiv 2405.21060, section 6). That is
    one product of C with those states, and as many numbers again as there are outputs. Exchanged
    are a batch's states and one number per head, forward and backward, whatever the length.
    Operands that are not described here are as in `ssd`, each process's part of them.

    Args:
        initial_states: The states before the first step of the first process. All processes pass
            them, or none does; their gradient is whole on each of them.
        return_final_states: Whether to return the states after the last step of the last process
            too, which every process gets.
        group: The processes; if absent, all.

    Raises:
        InputError: torch.distributed is not initialised, this process is not in the group, or an
            operand does not fit.

    Examples:
        >>> import torch.distributed as dist
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> x, dt = torch.randn(2, 50, 4, 16), torch.rand(2, 50, 4)
        >>> B, C = torch.randn(2, 50, 1, 8), torch.randn(2, 50, 1, 8)
        >>> y = ssd_across(x, dt, -torch.ones(4), B, C)
        >>> dist.destroy_process_group()
        >>> y.shape
        torch.Size([2, 50, 4, 16])
    """
    require_processes("ssd", group)
    require_ssd(Operands(x, dt, A, B, C, D, z, dt_bias, initial_states, reset))
    if x.is_meta:
        raise InputError("x is on meta; processes scan together on CPUs and NVIDIA GPUs")
    options = (dt_softplus, dt_limit)
    y, end = ssd(x, dt, A, B, C, D, z, dt_bias, *options, None, True, reset=reset)
    computing = end.dtype
    first = None if initial_states is None else initial_states.to(computing)
    with without_autocast(x.device):
        bias = None if dt_bias is None else dt_bias.double()
        steps = steps_of(dt.double(), bias, *options)
        over = steps.sum(1) * A.double()
        alive = None if reset is None else reset.cumsum(1) == 0
        if alive is not None:
            over = torch.where(alive.all(1, keepdim=True), over, -torch.inf)
        y, start, final = _Exchange.apply(group, y, end, over.to(computing), first)  # type: ignore[no-untyped-call]
        if first is not None or dist.get_rank(group) > 0:
            # Products in bfloat16 round no more than y is; float16 may not hold the states.
            rounds = x.dtype == C.dtype == torch.bfloat16
            C = C if rounds else C.to(computing)
            logarithms = steps.cumsum(1) * A.double()
            felt = _felt(start, C, logarithms.to(computing), alive, z)
            y = (y.to(computing) + felt).to(x.dtype)
    return (y, final) if return_final_states else y


def _felt(
    start: Float[Tensor, "batch heads head_dim state"],
    C: Float[Tensor, "batch length groups state"],
    logarithms: Float[Tensor, "batch length heads"],
    alive: Bool[Tensor, "batch length"] | None,
    z: Float[Tensor, "batch length heads head_dim"] | None,
) -> Float[Tensor, "batch length heads head_dim"]:
    """What outputs owe to the states before the part, where no reset comes between them."""
    batch, length, groups, _ = C.shape
    if alive is not None and length:
        start = torch.where(alive[:, 0, None, None, None], start, 0.0)
        logarithms = torch.where(alive.unsqueeze(-1), logarithms, -torch.inf)
    by_group = start.to(C.dtype).unflatten(1, (groups, -1)).flatten(2, 3)
    product = (C.transpose(1, 2) @ by_group.mT).transpose(1, 2)
    product = product.reshape(batch, length, *start.shape[1:3]).to(start.dtype)
    decays = logarithms.exp().unsqueeze(-1)
    # Nothing of an overflowing growth is nothing, as in `decayed`; gradients pass elsewhere.
    found = torch.where((product == 0) & decays.isinf(), 0.0, decays) * product
    if alive is not None:
        found = torch.where(alive[..., None, None], found, 0.0)
    return found if z is None else found * F.silu(z.to(found.dtype))


class _Exchange(torch.autograd.Function):
    """Outputs as they are, the states before this part, and those after the last part.

    Outputs pass through it so that the backward pass comes here in every process that goes back
    from its outputs. The decay over a part is given by its logarithm, -inf where a reset is in it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        group: "ProcessGroup | None",
        y: Tensor,
        end: Tensor,
        over: Tensor,
        first: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        decay = torch.where(over == -torch.inf, FORGOTTEN, over.exp())[..., None, None]
        ends, decays = zip(*gathered([end, decay], group), strict=True)
        states = states_between(ends, decays, first)
        start = states[dist.get_rank(group)]
        ctx.group, ctx.has_first = group, first is not None
        ctx.save_for_backward(start, *decays)
        return y.view_as(y), start.clone(), states[-1].clone()

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor, dstart: Tensor, dfinal: Tensor
    ) -> tuple[None, Tensor, Tensor, Tensor, Tensor | None]:
        refuse_second_derivatives("ssd")
        start, *decays = ctx.saved_tensors
        starts, finals = zip(*gathered([dstart, dfinal], ctx.group), strict=True)
        of_first, *of_ends = adjoints_between(starts, finals, decays)
        rank = dist.get_rank(ctx.group)
        dend = of_ends[rank]
        dover = (dend * decayed(decays[rank], start)).sum((-1, -2))
        return None, dy, dend, dover, of_first if ctx.has_first else None
