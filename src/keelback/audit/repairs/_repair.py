"""Repair: make a model hold beyond its training length without training it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from keelback.audit._degradation import TOLERANCE
from keelback.audit._json import finite
from keelback.audit._kernels import fast_scans
from keelback.audit._model import (
    check_weights,
    evaluating,
    resolved_train_length,
    unwrapped,
    vocab_size_of,
)
from keelback.audit._parameters import device_of, keep
from keelback.audit._tokens import check_tokens, cut
from keelback.audit.repairs._bench import Bench, HeldOutLoss
from keelback.audit.repairs._edits import EDIT_KINDS, EditKind, clipped
from keelback.audit.repairs._gain import Change, change_of_loss
from keelback.audit.repairs._search import (
    Found,
    able,
    coordinate_search,
    gradient_search,
    shared_search,
)
from keelback.errors import InputError

SEARCHES = ("shared", "coordinate", "gradient")
METHODS = ("auto", *EDIT_KINDS, "clip")
AS_GOOD_AS = 0.002
"""A decay floor this close (as a share) to the best edit is preferred: it touches the least."""
_EVALUATIONS_A_LAYER = 4


@dataclass(frozen=True)
class Repair:
    """What was edited, what it did on held-out text, and what undoes it.

    Attributes:
        method: the kind of edit, or "none" where nothing was changed.
        tried: the kind of edit that was measured, kept or not.
        values: per layer, in the units of the kind (binary logarithms); of what was kept.
        before, after: on the same held-out text, without the edit and with the edit that was tried;
            `before.restarted` is the loss to come up to.
        excess: by how much the length raised the loss before.
        gain: how the edit changes the loss at the target length; below 0 it falls.
        cost: how it changes the loss within the training length.
        replaced: the values that the edits replaced, by parameter name.
        untouched: layers that were left as they are, and why.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny).eval()
        >>> tokens = torch.randint(20, (1200,))
        >>> lengths = {"target_length": 64, "train_length": 16}
        >>> found = repair(model, tokens, **lengths, method="rate-scale", evaluations=2)
        >>> found.before.within > 0  # nats per token, within the training length
        True
    """

    method: str
    tried: str
    search: str
    train_length: int
    target_length: int
    values: Mapping[str, float]
    before: HeldOutLoss
    after: HeldOutLoss
    excess: Change
    gain: Change
    cost: Change
    evaluations: int
    replaced: Mapping[str, Tensor] = field(repr=False)
    untouched: Mapping[str, str] = field(default_factory=dict)

    @property
    def why_not(self) -> str:
        """Why the edit that was tried is not worth keeping; empty where it is."""
        rise = self.before.at_target / self.before.restarted - 1
        if not rise > TOLERANCE:
            return (
                f"There is nothing to mend: the length changes the loss by {rise:+.1%} "
                f"({self.excess}), and up to {TOLERANCE:.0%} a model holds."
            )
        if not self.gain.high < 0:
            return "Nothing helped: the loss at the target does not fall by more than its interval."
        if not self.excess.low > 0:
            return (
                f"There is nothing to mend for certain: the length changes the loss by "
                f"{rise:+.1%}, and that lies within its interval ({self.excess})."
            )
        if not -self.gain.mean > self.cost.mean:
            return "It costs more within the training length than it gains at the target."
        return ""

    @property
    def summary(self) -> str:
        """What the repair did, in a few sentences."""
        goal = self.before.restarted
        was, now = (loss.at_target / goal - 1 for loss in (self.before, self.after))
        measured = (
            f"At {self.target_length} tokens {self.tried} takes the loss from "
            f"{self.before.at_target:.3f} to {self.after.at_target:.3f} nats, from {was:+.1%} to "
            f"{now:+.1%} against contexts of at most {self.train_length} tokens: a change of "
            f"{self.gain}. Within the training length it changes by {self.cost}."
        )
        sentences = [measured]
        if self.why_not:
            kept = (
                "The model is unchanged."
                if self.method == "none"
                else "It was edited all the same."
            )
            sentences = [f"{self.why_not} {kept}", measured]
        if self.untouched:
            reason = next(iter(self.untouched.values()))
            sentences.append(
                f"Left as they are: {len(self.untouched)} layers, the first "
                f"{next(iter(self.untouched))} ({reason})."
            )
        return " ".join(sentences)

    def undo(self, model: nn.Module) -> None:
        """Put back the values that the repair replaced, to the bit."""
        keep(unwrapped(model), dict(self.replaced))

    def to_json(self) -> dict[str, Any]:
        """Plain values, `None` for what is infinite; the replaced parameters by name alone."""
        plain: dict[str, Any] = finite(self._plain())
        return plain

    def _plain(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "method": self.method,
            "tried": self.tried,
            "search": self.search,
            "train_length": self.train_length,
            "target_length": self.target_length,
            "values": dict(self.values),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "excess": self.excess.to_json(),
            "gain": self.gain.to_json(),
            "cost": self.cost.to_json(),
            "why_not": self.why_not,
            "evaluations": self.evaluations,
            "parameters": sorted(self.replaced),
            "untouched": dict(self.untouched),
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
    stored_as: torch.dtype | Mapping[str, torch.dtype] | None = None,
    locked: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Callable[[float, float], None] | None = None,
) -> Repair:
    """Edit how the layers forget, so that the loss at `target_length` comes down.

    Half of the text calibrates the edit, the other half measures it. The model is edited in place
    only where it is worth it: on the held-out half the length raised the loss by more than 2 %,
    with the edit the loss at the target falls by more than its 95 % interval, and by more than it
    rises within the training length. Otherwise it is left as it was. `Repair.undo` takes the edit
    back.

    Args:
        model: a model that predicts the next token.
        tokens: ids, at least two sequences of `target_length`.
        target_length: length at which the model should hold.
        train_length: as for `audit`.
        method: "decay-floor", "rate-scale", "step-scale", "clip", or "auto" for the best of the
            first three.
        search: "shared" (one value for all layers), then "coordinate" (gradient-free, layer by
            layer) or "gradient" from there.
        evaluations: passes over the calibration text that the layer-wise search may take; four per
            layer if not given.
        stored_as: type in which the checkpoint stores its weights, one for all or by parameter
            name; edits are rounded to it.
        locked: names of parameters that must stay as they are, and why, such as quantised ones.
        force: edit the model even where it is not worth it.
        progress: called now and then with the passes done and the passes that there may be.

    Raises:
        InputError: an unknown method or search, a text that is too short, a target length that is
            not beyond the training length, a model that does not predict tokens, or one whose
            layers cannot be edited.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny).eval()
        >>> tokens = torch.randint(20, (1200,))
        >>> lengths = {"target_length": 64, "train_length": 16}
        >>> found = repair(model, tokens, **lengths, method="rate-scale", evaluations=2)
        >>> found.train_length, found.target_length
        (16, 64)
    """
    _require("method", method, METHODS)
    _require("search", search, SEARCHES)
    model = unwrapped(model)
    train_length, _ = resolved_train_length(model, train_length)
    sequences = _sequences(torch.as_tensor(tokens), target_length, train_length)
    check_weights(model)
    check_tokens(sequences, vocab_size_of(model))
    sequences = sequences.to(device_of(model))
    half = len(sequences) // 2
    with evaluating(model), fast_scans(model), torch.no_grad():
        halves = sequences[:half], sequences[half:]
        bench = Bench(model, *halves, train_length, locked or {}, progress)
        return _repair(bench, method, search, evaluations, stored_as, force)


def _repair(
    bench: Bench,
    method: str,
    search: str,
    evaluations: int | None,
    stored_as: torch.dtype | Mapping[str, torch.dtype] | None,
    force: bool,
) -> Repair:
    before = bench.held_out_losses()
    if method == "clip":
        edits, values, tried = clipped(bench.layers, bench.train_length), torch.zeros(0), "clip"
    else:
        found = _find(bench, method, search, evaluations)
        edits, values = found.kind.edits(bench.layers, found.values), found.values
        tried = found.kind.name
    replaced = keep(bench.model, edits, stored_as)
    after = bench.held_out_losses() if edits else before
    gain = change_of_loss(before.at_target, after.at_target)
    cost = change_of_loss(before.within, after.within)
    result = Repair(
        method=tried,
        tried=tried,
        search=search,
        train_length=bench.train_length,
        target_length=bench.held_out.shape[1],
        values={
            layer.layer.name: float(value)
            for layer, value in zip(bench.layers, values, strict=False)
        },
        before=before.means,
        after=after.means,
        excess=before.excess,
        gain=gain,
        cost=cost,
        evaluations=bench.evaluations,
        replaced=replaced,
        untouched=_untouched(bench, EDIT_KINDS.get(tried)),
    )
    if not edits or (result.why_not and not force):
        keep(bench.model, replaced)
        return replace(result, method="none", values={}, replaced={})
    return result


def _untouched(bench: Bench, kind: EditKind | None) -> dict[str, str]:
    one = torch.tensor(0.0)
    return bench.unread | {
        layer.layer.name: layer.why_not_at_all()
        for layer in bench.layers
        if kind is not None and not kind.edit(layer, one)
    }


def _find(bench: Bench, method: str, search: str, evaluations: int | None) -> Found:
    kinds = [EDIT_KINDS[method]] if method in EDIT_KINDS else list(EDIT_KINDS.values())
    usable = [kind for kind in kinds if able(kind, bench.layers)]
    if not usable:
        layers = f"the layers of {type(bench.model).__name__}"
        others = [name for name, kind in EDIT_KINDS.items() if able(kind, bench.layers)]
        if not others:
            reasons = sorted({layer.why_not_at_all() for layer in bench.layers})
            raise InputError(f"how {layers} forget cannot be edited: {'; '.join(reasons)}")
        raise InputError(
            f"{layers} cannot be edited by {method}; use {', '.join([*others, 'auto'])}"
        )
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
