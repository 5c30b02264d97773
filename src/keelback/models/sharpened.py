"""The sharpened bound of a selective SSM as a differentiable function of its weights."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.models.constants import class_constants
from keelback.models.selective_ssm import SelectiveClassifier


def log_gate_sensitivity(
    model: SelectiveClassifier, parameters: Mapping[str, Tensor], seq_len: int
) -> Float[Tensor, "*replicas"]:
    """log of B_w B_B B_C B_u^3 (S1 + S2 + max(s_A, 0) S3): how far a step's bias moves a logit.

    The output bound of the sharpened theory times its largest factor for the gate; it falls with
    every norm, with the largest step and with the spectral abscissa, and for s_A < 0 it is free of
    the length. B_w is the head's spectral norm for several classes.

    Args:
        model: says how A is parametrised; its own tensors are not read.
        parameters: the tensors by name, each with the same leading replica axes (or none).
        seq_len: T, the length of the sequences.

    Source: docs/studies/bounds.md, Proposition 1, Lemmas 1 to 3 and 5; the idea of a regulariser
    and initial values from a bound: Liu and Li, arXiv 2405.02670.

    Examples:
        >>> from keelback.models import SelectiveSSMConfig
        >>> model = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(0))
        >>> own = dict(model.named_parameters())
        >>> short, long = (float(log_gate_sensitivity(model, own, T).detach()) for T in (10, 100))
        >>> short < long  # s_A = 0 at the start
        True
    """
    everywhere = torch.ones(model.config.vocab_size, dtype=torch.bool, device=_device(parameters))
    c = class_constants(model, parameters, everywhere)
    gain = c["B_w"].log() + c["B_B"].log() + c["B_C"].log() + 3 * c["B_u"].log()
    D = F.softplus(c["p"] + c["B_q"] * c["B_u"])
    return gain + _log_step_sum(c["s_A"], D, seq_len)


def _log_step_sum(
    s_A: Float[Tensor, "*replicas"], D: Float[Tensor, "*replicas"], seq_len: int
) -> Float[Tensor, "*replicas"]:
    """log(S1 + S2 + max(s_A, 0) S3)."""
    k = torch.arange(seq_len, device=D.device, dtype=D.dtype)
    exponents = (s_A * D).unsqueeze(-1) * k
    log_S1 = D.log() + torch.logsumexp(exponents, -1)
    S2 = (seq_len - 1) * D / math.e
    stable = s_A < 0
    s = torch.where(stable, -s_A, 1.0)
    S2 = torch.where(stable, torch.minimum(S2, (3 / s + D) / math.e), S2)
    terms = [log_S1, S2.log()]
    if seq_len > 1:
        log_S3 = 2 * D.log() + torch.logsumexp(exponents[..., 1:] + k[1:].log(), -1)
        growing = torch.where(s_A > 0, s_A, 1.0)
        terms.append(torch.where(s_A > 0, growing.log() + log_S3, -torch.inf))
    return torch.logsumexp(torch.stack(terms), 0)


def scale_to_sensitivity(model: SelectiveClassifier, seq_len: int, target: float) -> None:
    """Scale W_B and W_C alike, so that the gate's sensitivity is `target`.

    Examples:
        >>> from keelback.models import SelectiveSSMConfig
        >>> model = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(0))
        >>> scale_to_sensitivity(model, seq_len=50, target=8.0)
        >>> own = dict(model.named_parameters())
        >>> round(float(log_gate_sensitivity(model, own, 50).detach().exp()), 3)
        8.0
    """
    with torch.no_grad():
        found = log_gate_sensitivity(model, dict(model.named_parameters()), seq_len)
        factor = torch.exp((math.log(target) - found) / 2)
        model.ssm.W_B.mul_(factor)
        model.ssm.W_C.mul_(factor)


def _device(parameters: Mapping[str, Tensor]) -> torch.device:
    return next(iter(parameters.values())).device
