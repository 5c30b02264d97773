"""The model on the bench: its editable layers, and its losses on two halves of a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.audit._layers import Layer, find_layers, watching
from keelback.audit._losses import LanguageModel, restarted_losses
from keelback.audit._parameters import substituted
from keelback.audit._recurrence import Recurrence
from keelback.audit._replay import Replay
from keelback.audit._spans import Span
from keelback.audit.repairs._edits import EditableLayer, EditKind
from keelback.audit.repairs._gain import Change, change_of_loss
from keelback.errors import InputError


@dataclass(frozen=True)
class HeldOutLoss:
    """Losses in nats per token, on text that the search did not see.

    Attributes:
        within: over the positions that training knew.
        at_target: over the last octave of positions up to the target length.
        restarted: of the tokens at those positions, in contexts that training knew.

    Examples:
        >>> loss = HeldOutLoss(within=2.1, at_target=2.4, restarted=2.1)
        >>> round(loss.at_target - loss.restarted, 3)  # what length costs, in nats per token
        0.3
    """

    within: float
    at_target: float
    restarted: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TokenLosses:
    """The same, token by token; one row per held-out sequence."""

    within: Float[np.ndarray, "sequences within"]
    at_target: Float[np.ndarray, "sequences late"]
    restarted: Float[np.ndarray, "sequences late"]

    @property
    def means(self) -> HeldOutLoss:
        """Means over all tokens."""
        return HeldOutLoss(
            *(float(x.mean()) for x in (self.within, self.at_target, self.restarted))
        )

    @property
    def excess(self) -> Change:
        """By how much the length raises the loss at the target."""
        return change_of_loss(self.restarted, self.at_target)


class Bench:
    """A model that predicts tokens, and how its loss changes with edits.

    Args:
        model: the model.
        calibration, held_out: ids, of the target length.
        train_length: how many of the positions training knew.
        locked: parameters that must stay as they are, and why.
        progress: called with the passes done and the passes that there may be.

    Raises:
        InputError: the model does not predict tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Int[Tensor, "sequences length"],
        held_out: Int[Tensor, "sequences length"],
        train_length: int,
        locked: Mapping[str, str],
        progress: Callable[[float, float], None] | None,
    ) -> None:
        self.model, self.train_length = model, train_length
        self.calibration, self.held_out = calibration, held_out
        self.evaluations, self._expected, self._progress = 0, 1, progress
        self._language_model = LanguageModel(model)
        reason = self._language_model.why_no_losses(calibration)
        if reason is not None:
            raise InputError(
                f"{type(model).__name__} cannot be repaired, for there is no loss by position: "
                f"{reason}"
            )
        self.layers, self.unread = _editable_layers(
            find_layers(model), self._language_model, calibration[:, :train_length], locked
        )
        if not self.layers and self.unread:
            name, reason = next(iter(self.unread.items()))
            raise InputError(
                f"{type(model).__name__} cannot be repaired, for none of its layers can be read: "
                f"{name}: {reason}"
            )

    def expect(self, kinds: Sequence[EditKind], layerwise: int) -> None:
        """Say how many passes there may be, for the progress bar."""
        shared = sum(
            len(row)
            for kind in kinds
            for row in kind.shared_values(self.train_length, self.held_out.shape[1])
        )
        self._expected = shared + layerwise

    def score(self, kind: EditKind, values: Float[Tensor, " layers"]) -> float:
        """Mean of the losses within and beyond the training length, on the calibration half."""
        with substituted(self.model, kind.edits(self.layers, values)):
            losses = torch.cat(
                [self._language_model.token_losses(own) for own in self.calibration.split(1)]
            )
        self.evaluations += 1
        if self._progress is not None:
            self._progress(min(self.evaluations, self._expected), self._expected)
        score = float(self._both_parts(losses))
        return score if score == score else float("inf")

    def differentiable_loss(
        self, kind: EditKind, values: Float[Tensor, " layers"], step: int
    ) -> Tensor:
        """The same of one sequence, with gradients to the values."""
        own = self.calibration[step % len(self.calibration)][None]
        with substituted(self.model, kind.edits(self.layers, values)):
            return self._both_parts(self._language_model.token_losses(own))

    def _both_parts(self, losses: Float[Tensor, "sequences length_minus_one"]) -> Tensor:
        known = self.train_length - 1
        return (losses[:, :known].mean() + losses[:, known:].mean()) / 2

    def held_out_losses(self) -> TokenLosses:
        """Losses of the model as it is, on the held-out half."""
        span = Span(self.held_out.shape[1], self.train_length)
        full = torch.cat([self._language_model.token_losses(own) for own in self.held_out.split(1)])
        late = max(span.length // 2, span.beyond.start)
        restarted = restarted_losses(self._language_model, self.held_out, span)
        parts = (
            full[:, : span.beyond.start - 1],
            full[:, late - 1 :],
            restarted[:, late - span.beyond.start :],
        )
        return TokenLosses(*(part.double().cpu().numpy() for part in parts))


def _editable_layers(
    layers: Sequence[Layer],
    language_model: LanguageModel,
    tokens: Int[Tensor, "sequences length"],
    locked: Mapping[str, str],
) -> tuple[list[EditableLayer], dict[str, str]]:
    """Layers with the mean step sizes that they have within the training length.

    And those that are not what they look like, by name, and why: nothing tells what an edit of
    them does.
    """
    sums: dict[int, Tensor] = {}
    unread: dict[str, str] = {}

    def receive(layer: Layer, hidden_states: Tensor, recurrence: Recurrence) -> None:
        own = recurrence.delta.mean((0, 1)) * len(recurrence.delta) / len(tokens)
        sums[layer.index] = sums.get(layer.index, torch.zeros_like(own)) + own

    def prove(directions: Sequence[Layer], replay: Replay) -> None:
        if replay.why_not is not None:
            unread.update((layer.name, replay.why_not) for layer in directions)

    with watching(layers, receive, prove):
        language_model.logits(tokens[:1])
    read = [layer for layer in layers if layer.name not in unread]
    sums.clear()
    with watching(read, receive):
        for sequence in tokens.split(1):
            language_model.logits(sequence)
    editable = [
        EditableLayer(layer, layer.state_matrix(), sums[layer.index], locked)
        for layer in read
        if layer.index in sums
    ]
    return editable, unread
