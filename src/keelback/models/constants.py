"""The constants of the class that a selective SSM belongs to, read off its tensors."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from keelback.models.selective_ssm import SelectiveClassifier


def class_constants(
    model: SelectiveClassifier,
    parameters: Mapping[str, Tensor],
    seen: Bool[Tensor, "*#replicas vocab"],
) -> dict[str, Float[Tensor, "*replicas"]]:
    """Norms, step sizes and growth factors that the bounds of arXiv 2502.01473 speak of.

    Args:
        model: says how A is parametrised; its own tensors are not read.
        parameters: the tensors by name, each with the same leading replica axes (or none).
        seen: which token ids occur in the data.

    Returns:
        One value a replica: `s_A` and `A_min` (extreme entries of A), `B_u` (largest token norm),
        `B_q`, `M_q` (l2 and l1 norm of q), `p`, `B_B`, `M_B`, `B_C`, `M_C` (spectral and l_{1,1}
        norm), `B_w`, `M_w` (of the head: l2 and l1 for a vector, spectral and l_{1,1} for a
        matrix), `delta_min` and `delta_max` on the tokens seen, `delta_lower` and `delta_upper`
        that the class allows (softplus of `p -+ B_q B_u`), `growth` (largest factor
        `exp(s_A delta)` of a state per token on the data), `rho` (the same over the class).

    Examples:
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> seen = torch.tensor([True, True])  # both tokens occur
        >>> found = class_constants(model, dict(model.named_parameters()), seen)
        >>> sorted(found)[:3]
        ['A_min', 'B_B', 'B_C']
    """
    A = _state_matrix(model, parameters)
    u, q, p = parameters["embedding"], parameters["ssm.q"], parameters["ssm.p"].squeeze(-1)
    s_A = A.amax((-2, -1))
    B_u = _over_seen(u.norm(dim=-1), seen, largest=True)
    B_q = q.norm(dim=-1)
    delta = F.softplus(p.unsqueeze(-1) + (u @ q.unsqueeze(-1)).squeeze(-1))
    delta_min = _over_seen(delta, seen, largest=False)
    delta_max = _over_seen(delta, seen, largest=True)
    delta_lower, delta_upper = F.softplus(p - B_q * B_u), F.softplus(p + B_q * B_u)
    head_l2, head_l1 = _head_norms(parameters["head.weight"], replica_axes=s_A.ndim)
    unstable = s_A > 0
    return {
        "s_A": s_A,
        "A_min": A.amin((-2, -1)),
        "B_u": B_u,
        "B_q": B_q,
        "M_q": q.abs().sum(-1),
        "p": p,
        "B_B": torch.linalg.matrix_norm(parameters["ssm.W_B"], ord=2),
        "M_B": parameters["ssm.W_B"].abs().sum((-2, -1)),
        "B_C": torch.linalg.matrix_norm(parameters["ssm.W_C"], ord=2),
        "M_C": parameters["ssm.W_C"].abs().sum((-2, -1)),
        "B_w": head_l2,
        "M_w": head_l1,
        "delta_min": delta_min,
        "delta_max": delta_max,
        "delta_lower": delta_lower,
        "delta_upper": delta_upper,
        "growth": torch.exp(s_A * torch.where(unstable, delta_max, delta_min)),
        "rho": torch.exp(s_A * torch.where(unstable, delta_upper, delta_lower)),
    }


def _state_matrix(
    model: SelectiveClassifier, parameters: Mapping[str, Tensor]
) -> Float[Tensor, "*replicas d_model d_state"]:
    prefix = "ssm.state_matrix."
    own = {name.removeprefix(prefix): t for name, t in parameters.items() if prefix in name}
    return torch.func.functional_call(model.ssm.state_matrix, own, ())


def _over_seen(
    values: Float[Tensor, "*replicas vocab"], seen: Bool[Tensor, "*#replicas vocab"], largest: bool
) -> Float[Tensor, "*replicas"]:
    outside = -torch.inf if largest else torch.inf
    masked = torch.where(seen, values, outside)
    return masked.amax(-1) if largest else masked.amin(-1)


def _head_norms(weight: Tensor, replica_axes: int) -> tuple[Tensor, Tensor]:
    if weight.ndim - replica_axes == 1:
        return weight.norm(dim=-1), weight.abs().sum(-1)
    return torch.linalg.matrix_norm(weight, ord=2), weight.abs().sum((-2, -1))
