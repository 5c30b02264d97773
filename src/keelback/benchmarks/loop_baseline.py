"""The Majority training as a plain Python loop over time, written from the equations.

One model at a time, no compiled scan, no replica axis: what the recipe of arXiv 2502.01473 costs
when each step of the recurrence is a handful of PyTorch operations.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keelback.data import Split
from keelback.training import Recipe


class LoopClassifier(nn.Module):
    """Section 3 of arXiv 2502.01473: projections of all tokens first, then step after step."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(weights["embedding"].clone())
        self.A = nn.Parameter(weights["ssm.state_matrix.A"].clone())
        self.W_B = nn.Parameter(weights["ssm.W_B"].clone())
        self.W_C = nn.Parameter(weights["ssm.W_C"].clone())
        self.q = nn.Parameter(weights["ssm.q"].clone())
        self.p = nn.Parameter(weights["ssm.p"].clone())
        self.w = nn.Parameter(weights["head.weight"].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch,) of tokens (batch, length)."""
        u = F.embedding(tokens, self.embedding)
        delta = F.softplus(self.p + u @ self.q)
        B = u @ self.W_B.T
        x = u.new_zeros(len(u), *self.A.shape)
        for t in range(u.shape[1]):
            step = delta[:, t, None, None]
            x = torch.exp(step * self.A) * x + step * B[:, t, None, :] * u[:, t, :, None]
        y = (x * (u[:, -1] @ self.W_C.T)[:, None, :]).sum(-1)
        return y @ self.w


def train_by_loop(
    weights: dict[str, Tensor], split: Split, order: Tensor, recipe: Recipe
) -> tuple[float, float]:
    """One epoch with PyTorch's own optimiser and clipping: seconds, and the mean loss."""
    model = LoopClassifier(weights)
    parameters = list(model.parameters())
    adam = torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    total = 0.0
    started = time.perf_counter()
    for index in order.split(recipe.batch_size):
        logits = model(split.tokens[index])
        loss = F.binary_cross_entropy_with_logits(logits, split.labels[index].float())
        spread = torch.sigmoid(logits).std()
        loss = loss + recipe.collapse_penalty * F.relu(recipe.collapse_spread - spread)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        adam.step()
        total += loss.item() * len(index)
    return time.perf_counter() - started, total / len(order)
