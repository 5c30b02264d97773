"""keelback's own layers: the selective SSM, and the blocks of its Mamba stack."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence, SelectiveRecurrence
from keelback.audit.adapters.base import Adapter, LayerCall, negative_exp
from keelback.models import MambaBlock, SelectiveSSM, StableStateMatrix


class SelectiveSSMAdapter(Adapter):
    """`keelback.models.SelectiveSSM`, and so the checkpoints of arXiv 2502.01473.

    One step size is shared by all channels, while A differs between them: the rates are the
    channels, and `delta` is the same for each.
    """

    kind = "selective-ssm"
    projection = None

    def matches(self, module: Any) -> bool:
        """Told by its class."""
        return isinstance(module, SelectiveSSM)

    def always_decays(self, module: Any) -> bool:
        """Only under the stable parametrisation; A is free otherwise."""
        return isinstance(module.state_matrix, StableStateMatrix)

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """A, whichever way it is parametrised."""
        return module.A.detach()

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """A itself, or the logarithm under the stable parametrisation, which keeps its margin."""
        matrix = module.state_matrix
        if isinstance(matrix, StableStateMatrix):
            below = (-matrix.margin - A).clamp_min(torch.finfo(A.dtype).tiny)
            return {"state_matrix.A_log": torch.log(below)}
        return {"state_matrix.A": A}

    def edit_steps(self, module: Any, factor: Tensor) -> Mapping[str, Tensor]:
        """A and the keys grow by the factor."""
        return {**self.edit_rates(module, module.A * factor), "W_B": module.W_B * factor}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the scan from the token vectors."""
        u = call.hidden_states
        delta = module.delta(u).unsqueeze(-1).expand_as(u)
        B, C = ((u @ W.T).unsqueeze(-2) for W in (module.W_B, module.W_C))
        return SelectiveRecurrence(u, delta, module.A, B, C)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """y itself."""
        return outputs[0]


class MambaBlockAdapter(Adapter):
    """`keelback.models.MambaBlock`: Mamba with its weights as plain matrices."""

    kind = "mamba"
    projection = None

    def matches(self, module: Any) -> bool:
        """Told by its class."""
        return isinstance(module, MambaBlock)

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`."""
        return negative_exp(module.A_log)

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`."""
        return {"A_log": torch.log(-A)}

    def edit_steps(self, module: Any, factor: Tensor) -> Mapping[str, Tensor]:
        """A and what follows the scan grow by the factor, D in it shrinks."""
        return {
            "A_log": module.A_log + torch.log(factor),
            "D": module.D / factor,
            "W_out": module.W_out * factor,
        }

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the scan, computed anew from the block's input."""
        d_inner, taps = module.conv_weight.shape
        x = (call.hidden_states @ module.W_in[:d_inner].mT).mT
        x = F.conv1d(
            x, module.conv_weight.unsqueeze(1), module.conv_bias, padding=taps - 1, groups=d_inner
        )
        u = F.silu(x[..., : call.hidden_states.shape[1]].mT)
        widths = [module.dt_rank, module.d_state, module.d_state]
        step, B, C = (u @ module.W_x.mT).split(widths, dim=-1)
        delta = F.softplus(step @ module.W_delta.mT + module.delta_bias)
        A = self.state_matrix(module)
        return SelectiveRecurrence(u, delta, A, B.unsqueeze(-2), C.unsqueeze(-2), module.D)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """`y silu(z)` and the output projection, a plain matrix."""
        d_inner = module.conv_weight.shape[0]
        z = call.hidden_states @ module.W_in[d_inner:].mT
        return (outputs[0] * F.silu(z)) @ module.W_out.mT
