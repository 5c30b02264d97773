"""A model of each family of transformers with keelback's operators and with transformers' own."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.families import FAMILIES, LINEAR, NORMALISED, build
from keelback.benchmarks.family_sizes import TINY, realistic
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.timing import interleaved_medians
from keelback.benchmarks.worker import Worker
from keelback.errors import InputError, first_line
from keelback.integrations import use_in_transformers

PASSES = ("forward", "forward+backward")
PROMPT = 16
#: The two ways of a layer: what is put around a call of the model.
_WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "ours": use_in_transformers,
    "theirs": nullcontext,
}


@dataclass(frozen=True)
class Trial:
    """What is measured of each family, in float32 on one sequence."""

    device: str = "cpu"
    d_model: int = 512
    lengths: tuple[int, ...] = (512, 4096)
    new_tokens: int = 32
    repeats: int = 3

    @property
    def planned(self) -> list[str]:
        """What is measured, by its name, in this order."""
        first, *others = [[f"{pass_} of {length}" for pass_ in PASSES] for length in self.lengths]
        rest = [name for names in others for name in names]
        return [*first, "decoding", "errors", "float64", *rest]


def timed_families() -> list[str]:
    """Those with linear recurrences, whether `use_in_transformers()` changes them or not."""
    return [*FAMILIES, *LINEAR, *NORMALISED]


def benchmark(
    families: list[str], trial: Trial, limit: float, report: Callable[[str], None]
) -> Benchmark:
    """One row per family, and the times that are compared.

    Args:
        limit: Seconds for a family; what was not measured by then is named in "left out".
        report: Is told each family as its turn comes.

    Raises:
        InputError: `d_model` is no multiple of 256.
    """
    about = {
        "versions": versions(),
        "trial": {**asdict(trial), "lengths": list(trial.lengths)},
        "limit_s": limit,
        "size": asdict(realistic(trial.d_model)),
    }

    def of_families(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with Worker(measured, trial, warm_up) as worker:
            for family in names:
                report(family)
                found, end = worker.results_of(family, limit)
                by_name = dict(found)
                times = [
                    {"family": family, "measured": name, **by_name[name]}
                    for name in trial.planned
                    if name in by_name and "ours_ms" in by_name[name]
                ]
                yield {"row": _row(family, trial, by_name, end), "times": times}

    return Benchmark([Group({name: name for name in families}, of_families)], _result, about)


def _result(found: Found) -> dict[str, Any]:
    return {
        "rows": [one["row"] for one in found.values()],
        "times": [times for one in found.values() for times in one["times"]],
    }


def warm_up(trial: Trial) -> None:
    """What costs time once: transformers' modules, the device, and its kernel libraries."""
    with use_in_transformers():
        tokens = _tokens(32, trial.device)
        _forward_and_backward(build("mamba").to(trial.device), tokens % TINY.vocab)()


def measured(family: str, trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is planned, one after the other: its name, and the numbers of both ways.

    Where one cannot be measured, there is the reason under "failed" instead.

    Raises:
        InputError: transformers does not have the family, or nothing of it is replaced.
    """
    model: Any = build(family, realistic(trial.d_model)).to(trial.device)
    _require_replaced(family, model)
    yield "layers", {"layers": _layers(model.config)}
    for name in trial.planned:
        try:
            yield name, _part(name, family, model, trial)
        except Exception as error:  # What transformers cannot do with a model leaves the rest.
            yield name, {"failed": first_line(error)}


def _part(name: str, family: str, model: Any, trial: Trial) -> dict[str, Any]:
    if name == "errors":
        return _errors(model, trial)
    if name == "float64":
        return _errors_from_float64(family, model, trial)
    if name == "decoding":
        return _decoding(model, trial)
    pass_, _, length = name.rpartition(" of ")
    call = _PASSES[pass_](model, _tokens(int(length), trial.device))
    return _medians(dict.fromkeys(_WAYS, call), trial)


def _medians(calls: Mapping[str, Callable[[], object]], trial: Trial) -> dict[str, Any]:
    times = interleaved_medians(calls, trial.device, trial.repeats, burst=0.1, around=_WAYS)
    return {f"{name}_ms": times[name] for name in calls}


def _require_replaced(family: str, model: Any) -> None:
    module = type(model).__module__
    with use_in_transformers() as replaced:
        if not any(name.startswith(f"{module}.") for name in replaced.names):
            raise InputError(f"use_in_transformers() replaces nothing of {family}")


def _layers(config: Any) -> str:
    """How many layers of which kind."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    if not kinds:
        return str(text.num_hidden_layers)
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).items())


def _tokens(length: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, 1000, (1, length), generator=generator).to(device)


def _forward(model: Any, tokens: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            model.eval()(tokens, use_cache=False)

    return call


def _forward_and_backward(model: Any, tokens: Tensor) -> Callable[[], object]:
    def call() -> None:
        model.zero_grad(set_to_none=True)
        model.train()(tokens, use_cache=False).logits.square().mean().backward()

    return call


_PASSES = dict(zip(PASSES, (_forward, _forward_and_backward), strict=True))


def _decoding(model: Any, trial: Trial) -> dict[str, Any]:
    """Of greedy generation behind a short prompt, which is part of the time."""
    prompt = _tokens(PROMPT, trial.device)
    model.eval().generation_config.eos_token_id = None

    def call() -> None:
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=trial.new_tokens,
            do_sample=False,
        )

    return _medians(dict.fromkeys(_WAYS, call), trial)


def _errors(model: Any, trial: Trial) -> dict[str, float]:
    """How far ours are from theirs.

    The largest difference of the logits, over the largest logit; and the same of each parameter's
    gradient, where the largest gradient is taken as a thousandth of that of all parameters at the
    least; of these the largest.
    """
    tokens = _tokens(trial.lengths[0], trial.device)
    ours, theirs = (_found(model, tokens, way) for way in _WAYS.values())
    return {"logits": _relative(ours[0], theirs[0], 0.0), "gradients": _largest(ours[1], theirs[1])}


def _errors_from_float64(family: str, model: Any, trial: Trial) -> dict[str, float]:
    """How far the gradients of both are from those of ours in float64, in the same measure."""
    tokens = _tokens(trial.lengths[0], trial.device)
    double: Any = build(family, realistic(trial.d_model)).double().to(trial.device)
    if hasattr(double, "set_experts_implementation"):
        double.set_experts_implementation("eager")  # The others are not for float64.
    _, exact = _found(double, tokens, use_in_transformers)
    names = {"ours": "keelback", "theirs": "transformers"}
    return {
        names[name]: _largest(_found(model, tokens, way)[1], exact) for name, way in _WAYS.items()
    }


def _largest(found: list[Tensor], expected: list[Tensor]) -> float:
    floor = 1e-3 * max(float(one.abs().max()) for one in expected)
    pairs = zip(found, expected, strict=True)
    return max(_relative(one, other, floor) for one, other in pairs)


def _found(
    model: Any, tokens: Tensor, way: Callable[[], AbstractContextManager[object]]
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of their mean square."""
    model.zero_grad(set_to_none=True)
    with way():
        logits = model.train()(tokens, use_cache=False).logits
        logits.square().mean().backward()
    return logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def _relative(found: Tensor, expected: Tensor, floor: float) -> float:
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), floor)


def _row(
    family: str, trial: Trial, found: Mapping[str, Mapping[str, Any]], end: str | None
) -> dict[str, Any]:
    """A row of the table: errors, speed-ups, tokens per second, and what was left out."""
    done = {name: numbers for name, numbers in found.items() if "failed" not in numbers}

    def ratio(name: str) -> float | None:
        times = done.get(name)
        return times["theirs_ms"] / times["ours_ms"] if times else None

    def per_second(way: str) -> float | None:
        times = done.get("decoding")
        return 1e3 * trial.new_tokens / times[f"{way}_ms"] if times else None

    def error(part: str, name: str) -> float | None:
        return done.get(part, {}).get(name)

    return {
        "family": family,
        "layers": done.get("layers", {}).get("layers"),
        "error of logits": error("errors", "logits"),
        "error of gradients": error("errors", "gradients"),
        "from float64, keelback": error("float64", "keelback"),
        "from float64, transformers": error("float64", "transformers"),
        **{
            f"speed-up, {length} tokens, {pass_}": ratio(f"{pass_} of {length}")
            for length in trial.lengths
            for pass_ in PASSES
        },
        "tokens/s, keelback": per_second("ours"),
        "tokens/s, transformers": per_second("theirs"),
        "left out": _left_out(trial, found, end),
    }


def _left_out(trial: Trial, found: Mapping[str, Mapping[str, Any]], end: str | None) -> str | None:
    """What is planned and not measured, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name in trial.planned:
        reason = found[name].get("failed") if name in found else end
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    return (
        "; ".join(
            f"{'all' if names == trial.planned else ', '.join(names)}: {reason}"
            for reason, names in reasons.items()
        )
        or None
    )
