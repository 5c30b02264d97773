"""keelback's own selective SSM: one rate for the whole layer, A itself the parameter."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence, SelectiveRecurrence
from keelback.audit.adapters.base import Adapter, LayerCall
from keelback.models import SelectiveSSM


class SelectiveSSMAdapter(Adapter):
    """`keelback.models.SelectiveSSM`, and so the checkpoints of arXiv 2502.01473.

    One step size is shared by all channels, while A differs between them: the rates are the
    channels, and `delta` is the same for each.
    """

    kind = "selective-ssm"

    def matches(self, module: Any) -> bool:
        """Told by its class."""
        return isinstance(module, SelectiveSSM)

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """A, whichever way it is parametrised."""
        return module.A.detach()

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the scan from the token vectors."""
        u = call.hidden_states
        delta = module.delta(u).unsqueeze(-1).expand_as(u)
        B, C = ((u @ W.T).unsqueeze(-2) for W in (module.W_B, module.W_C))
        return SelectiveRecurrence(u, delta, module.A, B, C)
