"""How a classifier is trained: the settings, and the loss."""

import contextlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_serializer
from torch import Tensor

_MOST = 1e30
"""Numbers beyond it soon leave what float32 holds."""


class Recipe(BaseModel):
    """Adam with L2 decay, a plateau schedule, clipping and a collapse penalty.

    The defaults are those of arXiv 2502.01473. `early_stop` is after how many epochs without a fall
    of the loss by `plateau_threshold` a training ends; None, never. In float32, as in PyTorch, the
    norm of a gradient overflows once an entry exceeds about 1e19, and clipping leaves nothing of
    the gradient; with `norm_precision` float64 it does not. With `precision` bfloat16 the logits
    are computed under autocast, from parameters that stay float32; float16 is not offered, since
    its range is too small for recurrences close to instability. `bound_penalty` times
    `log_gate_sensitivity` of the weights, the sharpened bound's largest factor, is added to the
    loss of a selective SSM.

    Examples:
        >>> Recipe(epochs=5).learning_rate
        0.01
        >>> Recipe(epochs=5) == Recipe(epochs=5, batch_size=64)
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=40, ge=0)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0, le=_MOST)
    weight_decay: float = Field(default=1e-5, ge=0, le=_MOST)
    plateau_factor: float = Field(default=0.9, gt=0, lt=1)
    plateau_patience: int = Field(default=5, ge=0)
    plateau_threshold: float = Field(default=0.01, ge=0, lt=1)
    clip_norm: float = Field(default=5.0, gt=0)
    collapse_penalty: float = Field(default=10.0, ge=0, le=_MOST)
    collapse_spread: float = Field(default=0.1, ge=0, le=_MOST)
    early_stop: int | None = Field(default=None, ge=1)
    norm_precision: Literal["float32", "float64"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    bound_penalty: float = Field(default=0.0, ge=0, le=_MOST)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        """A field that a later version added is left out at its default: runs keep their names."""
        fields: dict[str, Any] = handler(self)
        later = {
            "early_stop": None, "norm_precision": "float32", "precision": "float32",
            "bound_penalty": 0.0,
        }  # fmt: skip
        return {name: x for name, x in fields.items() if name not in later or x != later[name]}

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The precision in which logits are computed on `device`."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


def replica_losses(
    logits: Float[Tensor, "replicas batch *classes"],
    labels: Int[Tensor, "replicas batch"],
    recipe: Recipe,
) -> Float[Tensor, " replicas"]:
    """Mean cross-entropy of each replica plus its collapse penalty.

    Binary cross-entropy for logits without a class axis. The penalty is
    `collapse_penalty * max(0, collapse_spread - std(sigmoid(logits)))`, the standard deviation over
    all of a replica's logits in the batch (none for a single logit, which has no spread).
    """
    if logits.ndim == 2:
        target = labels.to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    else:
        entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(
            labels
        )
        entropy = entropy.mean(1)
    spread_over = torch.sigmoid(logits).flatten(1)
    if recipe.collapse_penalty == 0 or spread_over.shape[1] < 2:
        return entropy
    return entropy + recipe.collapse_penalty * F.relu(recipe.collapse_spread - spread_over.std(1))
