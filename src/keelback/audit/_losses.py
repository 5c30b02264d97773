"""The loss of each token, with all the context there is and with no more than training had."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.audit._inputs import failures_of, floating_tensors
from keelback.audit._spans import Span
from keelback.errors import InputError
from keelback.models import SelectiveClassifier

_PROBE_TOKENS = 8
_LOGITS_AT_ONCE = 1 << 24
_PROBE_TOLERANCE = 1e-3
_CAUSAL_TOLERANCE = 1e-5
"""What a later token may change where all is computed in float32 or more: rounding alone."""

Hidden = Float[Tensor, "batch length d_model"]


class LanguageModel:
    """What an audit asks of a model that predicts the next token.

    Where a model of transformers turns out to give `scale * head(base(tokens))`, losses are taken
    a few positions at a time, and the logits of a whole sequence are never held at once.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._takes_cache_flag = hasattr(model, "config") and hasattr(model, "base_model")
        self._head_scale: float | None = None

    def logits(self, tokens: Int[Tensor, "batch length"]) -> Tensor:
        """Whatever the model gives, unwrapped from its output object."""
        if isinstance(self._model, SelectiveClassifier):
            return self._model.trace(tokens)["logits"]  # its forward goes round its layer
        flags: dict[str, Any] = {"use_cache": False} if self._takes_cache_flag else {}
        with failures_of(self._model):
            output = self._model(tokens, **flags)
        return _logits_of(output, tokens)

    def why_no_losses(self, tokens: Int[Tensor, "batch length"]) -> str | None:
        """Why there is no loss by position, from two short trial passes; `None` where there is.

        There is one where the output has a logit of each token at each position that does not
        depend on what comes after it.

        Raises:
            InputError: the model takes more than tokens.
        """
        self._require_tokens_alone()
        probe = tokens[:1, :_PROBE_TOKENS]
        logits = self.logits(probe)
        if logits.ndim != 3 or logits.shape[:2] != probe.shape:
            shape = tuple(logits.shape)
            return f"the model does not predict the next token (its output has the shape {shape})."
        if logits.shape[-1] <= int(tokens.max()):
            return (
                f"the model does not predict the next token ({logits.shape[-1]} outputs per token "
                "are fewer than there are tokens)."
            )
        other = probe.clone()
        other[:, -1] = next((t for t in tokens.flatten().tolist() if t != probe[0, -1]), 0)
        change = (self.logits(other) - logits)[:, :-1].abs().max()
        if float(change) > self._rounding(logits.device.type) * float(logits.abs().max()):
            return (
                "the model does not predict the next token (what it gives at a token depends on "
                "the tokens after it)."
            )
        self._head_scale = self._scale_of_head(probe, logits)
        return None

    def _require_tokens_alone(self) -> None:
        parameters = list(inspect.signature(self._model.forward).parameters.values())
        needed = [
            own.name
            for own in parameters[1:]
            if own.default is own.empty
            and own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY)
        ]
        if needed and not isinstance(self._model, SelectiveClassifier):
            raise InputError(
                f"{type(self._model).__name__} takes {', '.join(needed)} besides tokens; audit it "
                "from Python with all that it takes, by name: keelback.audit.audit(model, {...})"
            )

    def _rounding(self, device: str) -> float:
        """What rounding may change of an output, as a share of it."""
        types = {p.dtype for p in self._model.parameters() if p.is_floating_point()}
        precise = types <= {torch.float32, torch.float64} and not torch.is_autocast_enabled(device)
        return _CAUSAL_TOLERANCE if precise else _PROBE_TOLERANCE

    def predicts_tokens(self, tokens: Int[Tensor, "batch length"]) -> bool:
        """Whether there is a loss by position."""
        return self.why_no_losses(tokens) is None

    def _scale_of_head(self, probe: Tensor, logits: Tensor) -> float | None:
        head = getattr(self._model, "get_output_embeddings", lambda: None)()
        base = getattr(self._model, "base_model", None)
        if head is None or base is None or base is self._model:
            return None
        own = self._head(self._hidden(probe)).float()
        scale = float((own * logits).sum() / own.square().sum())
        error = float((scale * own - logits).abs().max())
        return scale if error <= _PROBE_TOLERANCE * float(logits.abs().max()) else None

    def _head(self, hidden: Hidden) -> Tensor:
        head: Any = self._model.get_output_embeddings()  # type: ignore[operator]
        dtype = head.weight.dtype
        return head(hidden.to(dtype) if dtype.is_floating_point else hidden)

    def _hidden(self, tokens: Tensor) -> Hidden:
        with failures_of(self._model):
            output = self._model.base_model(tokens, use_cache=False)  # type: ignore[operator]
        return output[0]

    def token_losses(
        self, tokens: Int[Tensor, "batch length"], first: int = 1
    ) -> Float[Tensor, "batch length_minus_first"]:
        """Cross-entropy in nats of each token from `first` on, given all before it."""
        targets = tokens[:, first:]
        if self._head_scale is None:
            logits = self.logits(tokens)[:, first - 1 : -1]
            return _cross_entropy(logits, targets)
        hidden, scale = self._hidden(tokens)[:, first - 1 :], self._head_scale
        vocab = self._head(hidden[:1, :1]).shape[-1]
        step = max(1, _LOGITS_AT_ONCE // (vocab * len(tokens)))
        parts = [
            _cross_entropy(
                self._head(hidden[:, i : min(i + step, targets.shape[1])]) * scale,
                targets[:, i : i + step],
            )
            for i in range(0, targets.shape[1], step)
        ]
        return torch.cat(parts, dim=1)


def _logits_of(output: Any, tokens: Int[Tensor, "batch length"]) -> Tensor:
    """What a model gives under the name of logits, or else for each token, or else first.

    Raises:
        InputError: no floating tensor is in it.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    named = getattr(output, "logits", named)
    if isinstance(named, Tensor):
        return named
    found = list(floating_tensors(output))
    for_each = [x for x in found if x.ndim == 3 and x.shape[:2] == tokens.shape]
    if not found:
        raise InputError(f"the model gives a {type(output).__name__} without a floating tensor")
    return (for_each or found)[0]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


Windows = Sequence[tuple[slice, slice]]
"""Parts of a sequence, and those of their positions that count."""


def restarted_losses(
    language_model: LanguageModel,
    tokens: Int[Tensor, "batch length"],
    span: Span,
    done: Callable[[float], None] = lambda tokens: None,
    begin: Callable[[Windows], None] = lambda windows: None,
    losses_too: bool = True,
) -> Float[Tensor, "batch beyond"]:
    """Losses of the tokens beyond the training length, each in a context that training knew.

    The model starts anew every half training length, so each token has between half and all of
    the training length before it. Beside the losses with the full context, token for token, this
    tells what the length does and cancels how hard the tokens are. `done` is told how many tokens
    have been run, now and then; `begin`, before each pass, which windows its batch is made of.
    Without `losses_too` the model is run all the same, and the losses are NaN.
    """
    batch, length = tokens.shape
    losses = torch.full((batch, length), float("nan"), device=tokens.device)
    windows = span.restart_windows()
    at_once = max(1, length // span.train_length)
    for sequence in range(batch):
        for i in range(0, len(windows), at_once):
            group = [w for w in windows[i : i + at_once] if w[0].stop - w[0].start > 1]
            for same in _by_length(group):
                stacked = torch.stack([tokens[sequence, whole] for whole, _ in same])
                begin(same)
                if losses_too:
                    context = same[0][1].start - same[0][0].start
                    rows = language_model.token_losses(stacked, first=context)
                    for row, (_, scored) in zip(rows, same, strict=True):
                        losses[sequence, scored] = row.to(losses.dtype)
                else:
                    language_model.logits(stacked)
                done(stacked.numel())
    return losses[:, span.beyond].double().cpu()


def _by_length(windows: list[tuple[slice, slice]]) -> list[list[tuple[slice, slice]]]:
    groups: dict[int, list[tuple[slice, slice]]] = {}
    for whole, scored in windows:
        groups.setdefault(whole.stop - whole.start, []).append((whole, scored))
    return list(groups.values())
