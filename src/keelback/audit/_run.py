"""The audit itself: one pass with everything watched, one in short contexts, one in half types."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.audit._degradation import Degradation, degradation
from keelback.audit._gates import TokenName
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, find_layers, not_audited, watching
from keelback.audit._load import check_weights, resolved_train_length, vocab_size_of
from keelback.audit._losses import LanguageModel, restarted_losses
from keelback.audit._measures import LayerMeasures
from keelback.audit._precision import precision_effects
from keelback.audit._recurrence import Recurrence
from keelback.audit._result import AuditResult, PositionLoss
from keelback.audit._spans import Span
from keelback.audit._statistics import LayerStatistics
from keelback.audit._tokens import check_tokens, cut
from keelback.errors import InputError

PRECISION_TOKENS = 128
"""How many tokens the passes in half precision see."""


@torch.no_grad()
def audit(
    model: nn.Module,
    tokens: Int[Tensor, "..."] | Sequence[int],
    *,
    train_length: int | None = None,
    length: int | None = None,
    features: Float[Tensor, "features d_model"] | None = None,
    label: Callable[[int], str] | None = None,
    name: str | None = None,
    precision: bool = True,
    progress: Callable[[float, float], None] | None = None,
) -> AuditResult:
    """Measure the state-space layers of a model on a text, and say what was found.

    Args:
        model: any module; its state-space layers are found by their parts. It is left as it was.
        tokens: ids, `(tokens,)` to be cut into sequences, or `(sequences, length)`.
        train_length: length that the model was trained on; from its configuration, or else 2048,
            if not given.
        length: length of the sequences to cut `tokens` into; all of them in one if not given.
        features: directions in the layers' inputs, `(features, d_model)`, to compare gates with.
        label: how to show a token id; ids stand for themselves if not given.
        name: the model's name in the result.
        precision: whether to look at bfloat16 and float16 too.
        progress: called now and then with the share of the work that is done, and 1.

    Mamba and Mamba-2 layers of transformers run their scan by `keelback.scan` meanwhile, which
    moves outputs by rounding.

    Raises:
        InputError: no state-space layer or none that the model calls, weights that are not finite,
            ids outside the vocabulary, or fewer tokens than `length`.
    """
    layers = find_layers(model)
    check_weights(model)
    sequences = cut(torch.as_tensor(tokens), length)
    check_tokens(sequences, vocab_size_of(model))
    train_length, source = resolved_train_length(model, train_length)
    span = Span(sequences.shape[1], train_length)
    different, indices = sequences.unique(return_inverse=True)
    sequences = sequences.to(next(model.parameters()).device)
    statistics = [
        LayerStatistics(layer.state_matrix(), span, len(different), features) for layer in layers
    ]
    work = _Work(progress, sequences, span)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with fast_scans(model):
            language_model = LanguageModel(model)
            speaks = language_model.predicts_tokens(sequences)
            losses = _watched_pass(
                language_model, speaks, layers, statistics, sequences, indices, work
            )
            restarted = None
            if losses is not None and span.reaches_beyond:
                restarted = restarted_losses(language_model, sequences, span, work.done)
            probe = sequences[:1, :PRECISION_TOKENS]
            effects = precision_effects(model, probe) if precision else []
    finally:
        for module, mode in modes:
            module.training = mode
    measures = [
        LayerMeasures(layer, own)
        for layer, own in zip(layers, statistics, strict=True)
        if own.sequences
    ]
    if not measures:
        raise InputError(f"the forward pass of {type(model).__name__} calls none of its layers")
    return AuditResult(
        model=name or type(model).__name__,
        span=span,
        train_length_source=source,
        sequences=len(sequences),
        measures=measures,
        losses=[] if losses is None else _by_position(losses, restarted, span),
        degradation=_degradation(losses, restarted, span),
        precision=effects,
        not_audited=not_audited(model, [own.layer for own in measures]),
        token_names=[TokenName.of(token, label) for token in different.tolist()],
        why_no_losses=None if speaks else "The model does not predict the next token.",
    )


class _Work:
    """How much of the forward passes is done, in tokens."""

    def __init__(
        self,
        progress: Callable[[float, float], None] | None,
        sequences: Int[Tensor, "sequences length"],
        span: Span,
    ) -> None:
        restarted = sum(whole.stop - whole.start for whole, _ in span.restart_windows())
        self._whole = len(sequences) * (span.length + restarted)
        self._progress, self._done = progress, 0.0

    def done(self, tokens: float) -> None:
        self._done += tokens
        if self._progress is not None:
            self._progress(self._done / self._whole, 1.0)


def _watched_pass(
    language_model: LanguageModel,
    speaks: bool,
    layers: Sequence[Layer],
    statistics: Sequence[LayerStatistics],
    sequences: Int[Tensor, "sequences length"],
    indices: Int[Tensor, "sequences length"],
    work: "_Work",
) -> Float[Tensor, "sequences length_minus_one"] | None:
    """Run every sequence on its own, each layer's recurrence going into its statistics."""
    losses = []
    for sequence, own in zip(sequences.split(1), indices.split(1), strict=True):

        def receive(
            layer: Layer, hidden_states: Tensor, recurrence: Recurrence, own: Tensor = own
        ) -> None:
            statistics[layer.index].update(recurrence, hidden_states, own)
            work.done(own.numel() / len(layers))

        with watching(layers, receive):
            if speaks:
                losses.append(language_model.token_losses(sequence))
            else:
                language_model.logits(sequence)
    return torch.cat(losses).double().cpu() if losses else None


def _by_position(
    losses: Float[Tensor, "sequences length_minus_one"],
    restarted: Float[Tensor, "sequences beyond"] | None,
    span: Span,
) -> list[PositionLoss]:
    """Losses in bins; `losses[:, i]` is of the token at position `i + 1`."""
    rows = []
    for bin_ in span.bins():
        start = max(bin_.start, 1)
        if start >= bin_.stop:
            continue
        own = losses[:, start - 1 : bin_.stop - 1].flatten()
        error = 2 * float(own.std()) / len(own) ** 0.5 if len(own) > 1 else float("inf")
        alone = float("nan")
        if restarted is not None and start >= span.beyond.start:
            shifted = slice(start - span.beyond.start, bin_.stop - span.beyond.start)
            alone = float(restarted[:, shifted].mean())
        mean = float(own.mean())
        rows.append(
            PositionLoss(start, bin_.stop, len(own), mean, mean - error, mean + error, alone)
        )
    return rows


def _degradation(losses: Tensor | None, restarted: Tensor | None, span: Span) -> Degradation | None:
    if losses is None or restarted is None:
        return None
    full = losses[:, span.beyond.start - 1 :]
    return degradation(full.numpy(), restarted.numpy(), span)
