"""How far one step moves the outputs of a gated SSM: the largest stable step, measured.

A hinge loss is linear in the output on either side of its kink, so the Hessian of the loss says
nothing of a step across the kink. What does is by how much a step moves outputs: with J the
Jacobian of the outputs of n sequences in the weights and D the step sizes on a diagonal, a step on
the losses of all of them moves the outputs by J D J^T / n times the vector of the signs of those
that are inside the hinge. Its largest eigenvalue is what this module calls sharpness (times step
size): for a square loss the bound of stability is 2; for the hinge, whose gradient does not shrink
towards the kink, the outputs go to and fro across it by about the eigenvalue, so it is to be small
beside the margin of 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from keelback.dynamics.descent.optimizer import Rates, Weights
from keelback.dynamics.descent.training import Symmetry
from keelback.dynamics.exchange import symmetric_gate, symmetric_readout
from keelback.dynamics.gradient.torch import TorchHinge

SEQUENCES = 64
"""Sequences of each replica that its sharpness is measured on."""

_ITERATIONS = 40


@dataclass(frozen=True)
class Sharpness:
    """Some sequences of every replica's data, ready to be differentiated one by one.

    Symmetric weights move along symmetric directions alone, so gradients are projected on those.
    """

    data: TorchHinge
    symmetry: Symmetry

    @classmethod
    def on(
        cls,
        data: Tensor,
        signs: Float[Tensor, "replicas samples"],
        v: Float[Tensor, " width"],
        mixing: Float[Tensor, "replicas dim dim"] | None,
        dim: int,
        symmetry: Symmetry,
    ) -> "Sharpness":
        """Keep `SEQUENCES` of each replica, from the middle, where both halves of a pair meet.

        `data` are tokens, of shape (replicas, samples, length, dim), or their features, without
        the last axis.
        """
        start = max(0, (signs.shape[1] - SEQUENCES) // 2)
        part = slice(start, start + SEQUENCES)
        chosen, signs = data[:, part], signs[:, part]
        tokens = chosen if data.ndim == 4 else one_hot(chosen, dim).to(signs.dtype)
        queries = tokens if mixing is None else tokens @ mixing.mT[:, None]
        return cls(TorchHinge(tokens, signs, v, queries @ tokens.mT), symmetry)

    def at(self, weights: Weights, rates: Rates) -> Float[Tensor, " replicas"]:
        """Largest eigenvalue of J D J^T / n of every replica, by power iteration."""
        gate, out = self.data.output_gradients(
            *(part.to(self.data.tokens.dtype) for part in weights)
        )
        if self.symmetry != "none":
            out = symmetric_readout(out)
        if self.symmetry == "model":
            gate = symmetric_gate(gate)
        gram = rates.gate[:, None, None] * (gate @ gate.mT)
        flat = out.flatten(2)
        gram = gram + rates.out[:, None, None] * (flat @ flat.mT)
        gram = gram / gram.shape[-1]
        # The start is no eigenvector, and not orthogonal to the one that all outputs share.
        vector = torch.linspace(0.5, 1.5, gram.shape[-1], device=gram.device, dtype=gram.dtype)
        vector = vector.expand(gram.shape[:2])
        value = torch.zeros_like(gram[:, 0, 0])
        for _ in range(_ITERATIONS):
            image = torch.einsum("rij,rj->ri", gram, vector)
            value = image.norm(dim=1)
            vector = image / value.clamp_min(1e-30)[:, None]
        return value

    def keep(self, replicas: Int[Tensor, " kept"]) -> "Sharpness":
        """The same for these replicas alone."""
        return Sharpness(self.data.keep(replicas), self.symmetry)
