"""The class of a trained model, and how it scores on a split."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.bounds._constants import ClassConstants
from keelback.data import Split
from keelback.errors import InputError
from keelback.models import SelectiveClassifier, class_constants

_BATCH = 1000


def require_finite(model: nn.Module) -> None:
    """Check that every weight is a finite number.

    Raises:
        InputError: names the first tensor that holds NaN or infinity.
    """
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"tensor {name} holds NaN or infinity; no bound holds for such weights"
            )


def require_selective(model: nn.Module) -> SelectiveClassifier:
    """The model, if it is one selective SSM with a linear head.

    Raises:
        InputError: it is another architecture.
    """
    if not isinstance(model, SelectiveClassifier):
        raise InputError(
            f"the bounds are about one selective SSM with a linear head, not {type(model).__name__}"
        )
    return model


def measure_constants(model: nn.Module, seq_len: int, m: int) -> ClassConstants:
    """The smallest class of selective SSMs that holds a model, for any sequence of its tokens.

    B_u is the largest norm over the whole embedding, since a bound on the risk must hold for tokens
    that the sample does not show. For several classes B_w and M_w are the largest over the rows.

    Args:
        model: a `SelectiveClassifier`.
        seq_len: T.
        m: number of training samples.

    Raises:
        InputError: another architecture, or weights that are not finite.

    Examples:
        >>> from keelback.models import SelectiveSSMConfig
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> constants = measure_constants(model, seq_len=50, m=1000)
        >>> constants.T, constants.m, constants.d
        (50, 1000, 4)
    """
    model = require_selective(model)
    require_finite(model)
    parameters = {name: tensor.detach().double() for name, tensor in model.named_parameters()}
    everywhere = torch.ones(model.config.vocab_size, dtype=torch.bool)
    measured = class_constants(model, parameters, everywhere)
    value = {name: float(tensor) for name, tensor in measured.items()}
    rows = parameters["head.weight"].reshape(-1, model.config.d_model)
    return ClassConstants(
        B_u=value["B_u"],
        s_A=value["s_A"],
        B_A=max(-value["A_min"], 0.0),
        B_B=value["B_B"],
        M_B=max(value["M_B"], value["B_B"]),
        B_C=value["B_C"],
        M_C=max(value["M_C"], value["B_C"]),
        B_q=value["B_q"],
        M_q=max(value["M_q"], value["B_q"]),
        B_w=float(rows.norm(dim=-1).max()),
        M_w=max(float(rows.abs().sum(-1).max()), float(rows.norm(dim=-1).max())),
        p_lo=value["p"],
        p_hi=value["p"],
        T=seq_len,
        m=m,
        d=model.config.d_model,
        N=model.config.d_state,
    )


@torch.no_grad()
def logits(model: nn.Module, split: Split) -> Float[Tensor, "examples *classes"]:
    """The model's logits on a split, in batches.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_test=50).split("test")
        >>> logits(SelectiveSSMConfig(vocab_size=2).build(), split).shape
        torch.Size([50])
    """
    return torch.cat([model(tokens) for tokens in split.tokens.split(_BATCH)])


def margins(
    logits: Float[Tensor, "examples *classes"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, " examples"]:
    """y z for one logit (y = +-1), z_y minus the largest other logit for several classes.

    Examples:
        >>> margins(torch.tensor([2.0, -1.0]), torch.tensor([1, 1]))
        tensor([ 2., -1.])
    """
    if logits.ndim == 1:
        return torch.where(labels == 1, logits, -logits)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(1)


def ramp_risk(margins: Float[Tensor, " examples"], margin: float) -> float:
    """Mean of min(1, max(0, 1 - margin of the example / margin)); not a number counts as 1.

    Examples:
        >>> ramp_risk(torch.tensor([2.0, 0.5, -1.0]), margin=1.0)
        0.5
    """
    losses = (1 - margins.double() / margin).nan_to_num(nan=1.0).clamp(0, 1)
    return float(losses.mean())
