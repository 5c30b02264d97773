"""The audit itself: one pass with everything watched, one in short contexts, one in half types."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.audit._collect import Collector, NotAudited
from keelback.audit._degradation import Degradation, degradation
from keelback.audit._directions import input_orders
from keelback.audit._gates import TokenName
from keelback.audit._inputs import (
    Inputs,
    PositionLoss,
    are_tokens,
    call,
    one_by_one,
)
from keelback.audit._kernels import fast_scans
from keelback.audit._layers import Layer, find_layers, not_audited, watching
from keelback.audit._losses import LanguageModel, restarted_losses
from keelback.audit._model import (
    as_written,
    check_weights,
    evaluating,
    resolved_train_length,
    unwrapped,
    vocab_size_of,
)
from keelback.audit._parameters import device_of
from keelback.audit._precision import precision_effects
from keelback.audit._result import AuditResult, losses_by_position
from keelback.audit._spans import Span
from keelback.audit._tokens import check_tokens, cut
from keelback.errors import InputError

PRECISION_TOKENS = 128
"""How many tokens the passes in half precision see."""

Progress = Callable[[float, float], None]


@torch.no_grad()
def audit(
    model: nn.Module,
    inputs: Int[Tensor, "..."] | Sequence[int] | Inputs | None = None,
    *,
    tokens: Int[Tensor, "..."] | Sequence[int] | None = None,
    train_length: int | None = None,
    length: int | None = None,
    features: Float[Tensor, "features d_model"] | None = None,
    label: Callable[[int], str] | None = None,
    name: str | None = None,
    precision: bool = True,
    position_loss: PositionLoss | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Measure the state-space layers of a model on a text or other inputs; say what was found.

    Args:
        model: any module; its state-space layers are found by their parts. It is left as it was.
            Wrappers (PEFT, DDP, FSDP, `torch.compile`) are looked through.
        inputs: ids, `(tokens,)` to be cut into sequences, or `(sequences, length)`; or, for a model
            that takes no tokens, a tensor, or tensors by the names under which it takes them, the
            batch first.
        tokens: another name for `inputs` that are ids.
        train_length: length that the model was trained on; from its configuration, or else 2048,
            if not given. Of a model that takes no tokens, in positions of its layers; as long as
            these see if not given.
        length: length of the sequences to cut tokens into; all of them in one if not given.
        features: directions in the layers' inputs, `(features, d_model)`, to compare gates with.
        label: how to show a token id; ids stand for themselves if not given.
        name: the model's name in the result.
        precision: whether to look at bfloat16 and float16 too.
        position_loss: for a model that takes no tokens, makes a loss for each position,
            `(batch, length)`, of what it gives.
        progress: called now and then with the share of the work that is done, and 1.

    Each reading is proved: the recurrence is run again from what was read, and compared with what
    the layer hands on. A layer where they differ is named under `not_audited` and left out.

    Mamba and Mamba-2 layers of transformers run their scan by `keelback.scan` meanwhile, which
    moves outputs by rounding.

    Raises:
        InputError: no state-space layer, weights that are not finite, ids outside the vocabulary,
            fewer tokens than `length`, or inputs without a tensor.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
        >>> result = audit(model, tokens=torch.randint(40, (400,)), train_length=40)
        >>> result.train_length_source, len(result.layers)
        ('given', 1)
    """
    if (inputs is None) == (tokens is None):
        raise InputError("audit takes inputs or tokens: give one of the two")
    inputs = tokens if inputs is None else inputs
    inner = unwrapped(model)
    find_layers(inner)
    check_weights(inner)
    options: dict[str, Any] = {
        "train_length": train_length,
        "features": features,
        "name": name or type(inner).__name__,
        "precision": precision,
        "progress": progress or (lambda done, of: None),
    }
    with evaluating(inner), as_written(inner), fast_scans(inner):
        if tokens is not None or are_tokens(inputs):
            ids = cut(torch.as_tensor(inputs), length)
            return _audit_tokens(inner, ids, label, **options)
        return _audit_others(inner, cast("Inputs", inputs), position_loss, **options)


def _audit_tokens(
    model: nn.Module,
    sequences: Int[Tensor, "sequences length"],
    label: Callable[[int], str] | None,
    *,
    train_length: int | None,
    features: Tensor | None,
    name: str,
    precision: bool,
    progress: Progress,
) -> AuditResult:
    check_tokens(sequences, vocab_size_of(model))
    train_length, source = resolved_train_length(model, train_length)
    span = Span(sequences.shape[1], train_length)
    different, indices = sequences.unique(return_inverse=True)
    sequences = sequences.to(device_of(model))
    work = _Work(progress, sequences, span)
    layers = find_layers(model)
    each = sequences.shape[1] / len(layers)
    language_model = LanguageModel(model)
    why_not = language_model.why_no_losses(sequences)
    # Nothing runs on a reversed text in a model whose outputs depend on no later token.
    orders = None if why_not is None else input_orders(language_model, layers, sequences)
    collector = Collector(
        layers,
        lambda seen: span if seen == span.length else Span(seen, min(seen, train_length)),
        len(different),
        features,
        lambda: work.done(each),
        orders,
    )
    losses = []
    with watching(layers, collector.receive, collector.prove):
        for sequence, own in zip(sequences.split(1), indices.split(1), strict=True):
            collector.on(own)
            if why_not is None:
                losses.append(language_model.token_losses(sequence))
            else:
                language_model.logits(sequence)
    full = torch.cat(losses).double().cpu() if losses else None
    restarted = None
    if span.reaches_beyond:
        read = [own.layer for own in collector.measures()]
        with watching(read, collector.receive_restarted):
            restarted = restarted_losses(
                language_model,
                sequences,
                span,
                work.done,
                collector.on_windows,
                losses_too=full is not None,
            )
    probe = sequences[:1, :PRECISION_TOKENS]
    return AuditResult(
        model=name,
        span=span,
        train_length_source=source,
        sequences=len(sequences),
        found=layers,
        measures=collector.measures(),
        losses=[] if full is None else losses_by_position(full, restarted, span, first=1),
        degradation=_degradation(full, restarted, span),
        precision=precision_effects(model, probe) if precision else [],
        not_audited=[*collector.not_read(), *_others(model, layers)],
        token_names=[TokenName.of(token, label) for token in different.tolist()],
        why_no_losses=why_not,
    )


def _audit_others(
    model: nn.Module,
    inputs: Inputs,
    position_loss: PositionLoss | None,
    *,
    train_length: int | None,
    features: Tensor | None,
    name: str,
    precision: bool,
    progress: Progress,
) -> AuditResult:
    layers = find_layers(model)
    members = list(one_by_one(inputs, device_of(model)))
    lengths: list[int] = []

    def span_of(seen: int) -> Span:
        lengths.append(seen)
        return Span(seen, train_length or seen)

    collector = Collector(layers, span_of, 0, features)
    losses = []
    with watching(layers, collector.receive, collector.prove):
        for i, own in enumerate(members):
            output = call(model, own)
            if position_loss is not None:
                losses.append(position_loss(output).double().cpu())
            progress((i + 1) / len(members), 1.0)
    full = torch.cat(losses) if losses else None
    longest = max([*lengths, *([] if full is None else [full.shape[1]])], default=1)
    span = Span(longest, train_length or longest)
    return AuditResult(
        model=name,
        span=span,
        train_length_source="given" if train_length is not None else "as long as the inputs",
        sequences=len(members),
        found=layers,
        measures=collector.measures(),
        losses=[] if full is None else losses_by_position(full, None, span, first=0),
        degradation=None,
        precision=precision_effects(model, members[0]) if precision else [],
        not_audited=[*collector.not_read(), *_others(model, layers)],
        token_names=[],
        why_no_losses="the model is not given tokens.",
    )


def _others(model: nn.Module, layers: Sequence[Layer]) -> list[NotAudited]:
    """Layers besides that mix tokens, by class."""
    return [
        NotAudited(kind, kind, count, "no adapter reads it")
        for kind, count in not_audited(model, layers).items()
    ]


class _Work:
    """How much of the forward passes is done, in tokens."""

    def __init__(
        self, progress: Progress, sequences: Int[Tensor, "sequences length"], span: Span
    ) -> None:
        restarted = sum(whole.stop - whole.start for whole, _ in span.restart_windows())
        self._whole = len(sequences) * (span.length + restarted)
        self._progress, self._done = progress, 0.0

    def done(self, tokens: float) -> None:
        self._done += tokens
        self._progress(min(1.0, self._done / self._whole), 1.0)


def _degradation(losses: Tensor | None, restarted: Tensor | None, span: Span) -> Degradation | None:
    if losses is None or restarted is None:
        return None
    full = losses[:, span.beyond.start - 1 :]
    return degradation(full.numpy(), restarted.numpy(), span)
