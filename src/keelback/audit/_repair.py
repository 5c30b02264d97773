"""Repair: make a model hold beyond its training length without training it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.audit._degradation import TOLERANCE
from keelback.audit._edits import (
    EDIT_KINDS,
    EditableLayer,
    EditKind,
    clipped,
    keep,
    substituted,
)
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, find_layers, watching
from keelback.audit._load import check_weights, resolved_train_length, vocab_size_of
from keelback.audit._losses import LanguageModel, restarted_losses
from keelback.audit._recurrence import Recurrence
from keelback.audit._search import (
    Found,
    able,
    coordinate_search,
    gradient_search,
    shared_search,
)
from keelback.audit._spans import Span
from keelback.audit._tokens import check_tokens, cut
from keelback.errors import InputError

SEARCHES = ("shared", "coordinate", "gradient")
METHODS = ("auto", *EDIT_KINDS, "clip")
AS_GOOD_AS = 0.002
"""A decay floor this close (as a share) to the best edit is preferred: it touches the least."""
_EVALUATIONS_A_LAYER = 4


@dataclass(frozen=True)
class HeldOutLoss:
    """Losses in nats a token, on text that the search did not see.

    Attributes:
        within: over the positions that training knew.
        at_target: over the last octave of positions up to the target length.
        restarted: of the tokens at those positions, in contexts that training knew.
    """

    within: float
    at_target: float
    restarted: float


@dataclass(frozen=True)
class Repair:
    """What was edited, what it did on held-out text, and what undoes it.

    Attributes:
        method: the kind of edit, or "none" where nothing helped and nothing was changed.
        values: per layer, in the units of the kind (binary logarithms).
        before, after: on the same held-out text; `before.restarted` is the loss to come up to.
        replaced: the values that the edits replaced, by parameter name.
    """

    method: str
    search: str
    train_length: int
    target_length: int
    values: Mapping[str, float]
    before: HeldOutLoss
    after: HeldOutLoss
    evaluations: int
    replaced: Mapping[str, Tensor] = field(repr=False)

    @property
    def summary(self) -> str:
        """What the repair did, in a sentence or two."""
        goal = self.before.restarted
        was, now = (loss.at_target / goal - 1 for loss in (self.before, self.after))
        if self.method == "none":
            found = "Nothing helped" if was > TOLERANCE else "There is nothing to mend"
            return (
                f"{found}: at {self.target_length} tokens the loss stays at {was:+.1%} "
                f"against contexts of at most {self.train_length}. The model is unchanged."
            )
        cost = self.after.within - self.before.within
        gain = self.before.at_target - self.after.at_target
        return (
            f"At {self.target_length} tokens the loss went from {self.before.at_target:.3f} to "
            f"{self.after.at_target:.3f} nats, from {was:+.1%} to {now:+.1%} against contexts of "
            f"at most {self.train_length} tokens; within the training length it changed by "
            f"{cost:+.4f} nats{', more than it gained at length' if cost > gain else ''}. "
            f"Method: {self.method}."
        )

    def undo(self, model: nn.Module) -> None:
        """Put back the values that the repair replaced, to the bit."""
        keep(model, dict(self.replaced))

    def to_json(self) -> dict[str, Any]:
        """Plain values; the replaced parameters by name alone."""
        return {
            "summary": self.summary,
            "method": self.method,
            "search": self.search,
            "train_length": self.train_length,
            "target_length": self.target_length,
            "values": dict(self.values),
            "before": asdict(self.before),
            "after": asdict(self.after),
            "evaluations": self.evaluations,
            "parameters": sorted(self.replaced),
        }


def repair(
    model: nn.Module,
    tokens: Int[Tensor, "..."] | Sequence[int],
    *,
    target_length: int,
    train_length: int | None = None,
    method: str = "auto",
    search: str = "coordinate",
    evaluations: int | None = None,
    stored_as: torch.dtype | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Repair:
    """Edit how the layers forget, so that the loss at `target_length` comes down.

    Half of the text calibrates the edit, the other half measures it. The model is edited in place
    if the loss at the target length falls on the held-out half, and left as it was if not;
    `Repair.undo` takes the edit back.

    Args:
        model: a model that predicts the next token.
        tokens: ids, at least two sequences of `target_length`.
        target_length: length at which the model should hold.
        train_length: as for `audit`.
        method: "decay-floor", "rate-scale", "step-scale", "clip", or "auto" for the best of the
            first three.
        search: "shared" (one value for all layers), then "coordinate" (gradient-free, layer by
            layer) or "gradient" from there.
        evaluations: passes over the calibration text that the layer-wise search may take; four a
            layer if not given.
        stored_as: type in which the checkpoint will be stored; edits are rounded to it.
        progress: called now and then with the passes done and the passes that there may be.

    Raises:
        InputError: an unknown method or search, a text that is too short, a target length that is
            not beyond the training length, or a model that does not predict tokens.
    """
    _require("method", method, METHODS)
    _require("search", search, SEARCHES)
    train_length, _ = resolved_train_length(model, train_length)
    sequences = _sequences(torch.as_tensor(tokens), target_length, train_length)
    check_weights(model)
    check_tokens(sequences, vocab_size_of(model))
    sequences = sequences.to(next(model.parameters()).device)
    half = len(sequences) // 2
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with fast_scans(model), torch.no_grad():
            bench = _Bench(model, sequences[:half], sequences[half:], train_length, progress)
            return _repair(bench, method, search, evaluations, stored_as)
    finally:
        for module, mode in modes:
            module.training = mode


def _repair(
    bench: "_Bench",
    method: str,
    search: str,
    evaluations: int | None,
    stored_as: torch.dtype | None,
) -> Repair:
    before = bench.held_out_loss()
    if method == "clip":
        edits, values, name = clipped(bench.layers, bench.train_length), torch.zeros(0), "clip"
    else:
        found = _find(bench, method, search, evaluations)
        edits, values = found.kind.edits(bench.layers, found.values), found.values
        name = found.kind.name
    replaced = keep(bench.model, edits, stored_as)
    after = bench.held_out_loss()
    if not after.at_target < before.at_target:
        keep(bench.model, replaced)
        name, values, after, replaced = "none", torch.zeros(0), before, {}
    return Repair(
        method=name,
        search=search,
        train_length=bench.train_length,
        target_length=bench.held_out.shape[1],
        values={
            layer.layer.name: float(value)
            for layer, value in zip(bench.layers, values, strict=False)
        },
        before=before,
        after=after,
        evaluations=bench.evaluations,
        replaced=replaced,
    )


def _find(bench: "_Bench", method: str, search: str, evaluations: int | None) -> Found:
    kinds = [EDIT_KINDS[method]] if method in EDIT_KINDS else list(EDIT_KINDS.values())
    usable = [kind for kind in kinds if able(kind, bench.layers)]
    if not usable:
        layers = f"the layers of {type(bench.model).__name__}"
        if method == "auto":
            raise InputError(f"how {layers} forget cannot be edited")
        others = ", ".join(m for m in METHODS if m != method)
        raise InputError(f"{layers} cannot be edited by {method}; other methods are {others}")
    count = len(bench.layers)
    allowed = evaluations if evaluations is not None else _EVALUATIONS_A_LAYER * count
    bench.expect(usable, allowed if search != "shared" else 0)
    tried = [
        shared_search(kind, count, bench.train_length, bench.held_out.shape[1], bench.score)
        for kind in usable
    ]
    best = min(tried, key=lambda found: found.score)
    best = tried[0] if tried[0].score <= best.score * (1 + AS_GOOD_AS) else best
    if search == "coordinate":
        return coordinate_search(best, bench.score, allowed)
    if search == "gradient":
        return gradient_search(best, bench.score, bench.differentiable_loss, allowed)
    return best


class _Bench:
    """The model, its editable layers, and the two halves of the text."""

    def __init__(
        self,
        model: nn.Module,
        calibration: Int[Tensor, "sequences length"],
        held_out: Int[Tensor, "sequences length"],
        train_length: int,
        progress: Callable[[float, float], None] | None,
    ) -> None:
        self.model, self.train_length = model, train_length
        self.calibration, self.held_out = calibration, held_out
        self.evaluations, self._expected, self._progress = 0, 1, progress
        self._language_model = LanguageModel(model)
        if not self._language_model.predicts_tokens(calibration):
            raise InputError(
                f"{type(model).__name__} does not predict the next token, so there is no loss by "
                "position to repair"
            )
        self.layers = _editable_layers(
            find_layers(model), self._language_model, calibration[:, :train_length]
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

    def held_out_loss(self) -> HeldOutLoss:
        """Losses of the model as it is, on the held-out half."""
        span = Span(self.held_out.shape[1], self.train_length)
        full = torch.cat([self._language_model.token_losses(own) for own in self.held_out.split(1)])
        late = max(span.length // 2, span.beyond.start)
        restarted = restarted_losses(self._language_model, self.held_out, span)
        return HeldOutLoss(
            within=float(full[:, : span.beyond.start - 1].mean()),
            at_target=float(full[:, late - 1 :].mean()),
            restarted=float(restarted[:, late - span.beyond.start :].mean()),
        )


def _editable_layers(
    layers: Sequence[Layer], language_model: LanguageModel, tokens: Int[Tensor, "sequences length"]
) -> list[EditableLayer]:
    """Layers with the mean step sizes that they have within the training length."""
    sums: dict[int, Tensor] = {}

    def receive(layer: Layer, hidden_states: Tensor, recurrence: Recurrence) -> None:
        own = recurrence.delta.mean((0, 1)) * len(recurrence.delta) / len(tokens)
        sums[layer.index] = sums.get(layer.index, torch.zeros_like(own)) + own

    with watching(layers, receive):
        for sequence in tokens.split(1):
            language_model.logits(sequence)
    return [
        EditableLayer(layer, layer.state_matrix(), sums[layer.index])
        for layer in layers
        if layer.index in sums
    ]


def _sequences(
    tokens: Tensor, target_length: int, train_length: int
) -> Int[Tensor, "sequences length"]:
    if target_length <= train_length:
        raise InputError(
            f"the target length is {target_length} and the training length {train_length}; "
            "there is nothing to repair unless the target is longer"
        )
    if tokens.numel() < 2 * target_length:
        raise InputError(
            f"the text has {tokens.numel()} tokens; a repair to {target_length} needs at least "
            f"{2 * target_length}, half to calibrate on and half to measure with"
        )
    return cut(tokens, target_length)


def _require(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
