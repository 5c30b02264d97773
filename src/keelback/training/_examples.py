"""The training examples of many replicas, and the order in which each visits its own."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from keelback.data import Split


class Examples:
    """The replicas' training examples; examples that all replicas share are kept once."""

    def __init__(self, splits: Sequence[Split], device: torch.device | str) -> None:
        shared = all(split is splits[0] for split in splits)
        kept = splits[:1] if shared else splits
        self.tokens = torch.stack([split.tokens for split in kept]).to(device)
        self.labels = torch.stack([split.labels for split in kept]).to(device)
        self.size = len(splits[0])
        rows = torch.zeros(len(splits), 1) if shared else torch.arange(len(splits))[:, None]
        self._rows = rows.long().to(device)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these replicas alone."""
        self._rows = self._rows[rows]

    def take_tokens(
        self, index: Int[Tensor, "replicas batch"]
    ) -> Int[Tensor, "replicas batch length"]:
        """Each replica's examples at its own places."""
        return self.tokens[self._rows, index]

    def take_labels(self, index: Int[Tensor, "replicas batch"]) -> Int[Tensor, "replicas batch"]:
        """Their labels."""
        return self.labels[self._rows, index]


def epoch_order(seed: int, epoch: int, size: int) -> Int[Tensor, " size"]:
    """The order in which an epoch visits the examples: a function of the seed and the epoch.

    Examples:
        >>> epoch_order(seed=1, epoch=1, size=4).sort().values
        tensor([0, 1, 2, 3])
        >>> epoch_order(1, 1, 50).equal(epoch_order(1, 2, 50))
        False
    """
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(size))
