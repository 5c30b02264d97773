"""The stability monitor: what the theory speaks of, logged while a model trains."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn

from keelback.models import SelectiveClassifier, class_constants


class StabilityMonitor:
    """Reads the class constants of every replica between epochs.

    It records what the bounds speak of, from the weights alone, and is a part of keelback's own
    training loop. It does not warn and does not act: `keelback.audit.TrainingMonitor` does, for
    any state-space model in any loop, from the states that a batch drives.

    Of a selective SSM all that `models.class_constants` gives; of another model nothing but what
    the training loop measured.

    Args:
        model: the architecture that the replicas share.
        tokens: the training examples, `(replicas or 1, examples, length)`.

    Examples:
        >>> from keelback.models import SelectiveSSMConfig
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> type(StabilityMonitor(model, torch.zeros(1, 4, 10, dtype=torch.int64))).__name__
        'StabilityMonitor'
    """

    def __init__(self, model: nn.Module, tokens: Int[Tensor, "replicas examples length"]) -> None:
        self._model = model
        if isinstance(model, SelectiveClassifier):
            seen = torch.zeros(len(tokens), model.config.vocab_size, dtype=torch.bool)
            for replica, own in enumerate(tokens):
                seen[replica].index_fill_(0, own.flatten().cpu().long(), True)
            self._seen = seen.to(tokens.device)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these replicas alone."""
        if isinstance(self._model, SelectiveClassifier) and len(self._seen) > 1:
            self._seen = self._seen[rows]

    @torch.no_grad()
    def rows(
        self,
        parameters: Mapping[str, Tensor],
        epoch: int = 0,
        measured: Mapping[str, Tensor] | None = None,
    ) -> list[dict[str, float | int | None]]:
        """One row a replica: the epoch, what the loop measured, the constants; NaN is None."""
        columns = dict(measured or {})
        if isinstance(self._model, SelectiveClassifier):
            columns |= class_constants(self._model, parameters, self._seen)
        names = list(columns)
        replicas = len(next(iter(parameters.values())))
        if not names:
            return [{"epoch": epoch} for _ in range(replicas)]
        table = torch.stack([columns[name].double() for name in names], dim=1).tolist()
        return [
            {"epoch": epoch}
            | {name: None if math.isnan(x) else x for name, x in zip(names, row, strict=True)}
            for row in table
        ]
