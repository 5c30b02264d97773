"""Many models of one shape as one: their parameters stacked, their forward passes as one batch."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from keelback.errors import InputError


class Replicas:
    """Models of one architecture whose parameters lie in the rows of one matrix.

    `flat` holds a model in each row; `parameters` are views of it by name, with a leading replica
    axis, which autograd treats as leaves. Moving `flat` in place moves the models.
    """

    def __init__(self, models: Sequence[nn.Module], device: torch.device | str = "cpu") -> None:
        rows = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in models]
        self.model = models[0].to(device)
        self._shapes = {name: p.shape for name, p in models[0].named_parameters()}
        self._take(torch.stack(rows).to(device))

    def _take(self, flat: Float[Tensor, "replicas size"]) -> None:
        self.flat = flat
        self.parameters = self._views(flat)
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these replicas alone."""
        self._take(self.flat.detach()[rows])

    def __len__(self) -> int:
        return len(self.flat)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        pieces = torch.split(flat.detach(), sizes, dim=1)
        return {
            name: piece.unflatten(1, shape) if shape else piece.squeeze(1)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def logits(
        self, tokens: Int[Tensor, "replicas batch length"]
    ) -> Float[Tensor, "replicas batch *classes"]:
        """Each replica's logits for its own tokens."""
        if len(self) == 1:
            own = {name: p[0] for name, p in self.parameters.items()}
            return functional_call(self.model, own, (tokens[0],)).unsqueeze(0)
        if getattr(self.model, "takes_replicas", False):
            return functional_call(self.model, self.parameters, (tokens,))
        return vmap(lambda own, t: functional_call(self.model, own, (t,)))(self.parameters, tokens)

    def gradient(self, losses: Float[Tensor, " replicas"]) -> Float[Tensor, "replicas size"]:
        """The gradient of each replica's loss in its own parameters, one row a replica.

        Raises:
            InputError: the loss does not depend on one of the parameters.
        """
        parameters = list(self.parameters.values())
        gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                raise InputError(
                    f"the parameter {name} of {type(self.model).__name__} has no part in its "
                    "logits: there is nothing to learn for it"
                )
        return torch.cat([g.flatten(1) for g in gradients], dim=1)

    def weights(self, index: int) -> dict[str, Tensor]:
        """A copy of one model's parameters by name."""
        return {name: p[index].detach().clone() for name, p in self.parameters.items()}

    def as_model(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The shared module, filled with these weights."""
        self.model.load_state_dict(dict(weights))
        return self.model
