"""A Mamba of Hugging Face transformers by keelback's operators, by mamba-ssm's, and by its own."""

import importlib
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.scan_inputs import dtype_named
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.timing import SLOW, interleaved_medians
from keelback.errors import InputError, JobError, first_line
from keelback.integrations import Replacement, use_in_transformers

FAMILIES = ("mamba", "mamba2")
#: `mamba_ssm` is what transformers calls where mamba-ssm and causal-conv1d are installed, in
#: training mamba-ssm's fused layer; `transformers` its path without other packages.
PEERS = ("mamba_ssm", "transformers")
HEAD_DIM = 64
_PROMPT = 32
#: Relative differences from ours above which a peer computes something else, in single and double
#: precision and in half precision, whose rounding errors grow from layer to layer.
_DIFFERENT = {False: 0.01, True: 0.25}

Ways = Mapping[str, Callable[[], AbstractContextManager[object]]]


@dataclass(frozen=True)
class ModelSize:
    """A language model of a family, and the sequences that it trains on.

    A Mamba-2 has heads of 64 channels and 128 states in one group; with 24 layers of 768 channels
    it is as large as the published model of 130 million parameters.
    """

    family: str = "mamba"
    layers: int = 4
    d_model: int = 768
    batch: int = 1
    length: int = 512
    dtype: str = "float32"
    vocabulary: int = 50280

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"family is {self.family!r}; it should be one of mamba, mamba2")
        if self.family == "mamba2" and 2 * self.d_model % HEAD_DIM:
            raise InputError(
                f"d_model is {self.d_model}; for a Mamba-2 it should be a multiple of 32, so that "
                "heads have 64 channels"
            )

    def model(self, device: str) -> Any:
        """One with random weights, drawn as those of the published models were.

        With the larger ones that transformers' configurations name, gradients in half precision are
        little but rounding errors: they grow by the layer.
        """
        import transformers

        torch.manual_seed(0)
        shared: dict[str, Any] = {
            "hidden_size": self.d_model,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "rescale_prenorm_residual": True,
        }
        model: Any
        if self.family == "mamba":
            model = transformers.MambaForCausalLM(transformers.MambaConfig(**shared))
        else:
            shared |= {"num_heads": 2 * self.d_model // HEAD_DIM, "head_dim": HEAD_DIM}
            config = transformers.Mamba2Config(**shared, n_groups=1, state_size=128)
            model = transformers.Mamba2ForCausalLM(config)
        model.generation_config.eos_token_id = None
        return model.to(device, dtype_named(self.dtype))


def who_computes(module: ModuleType) -> dict[str, str]:
    """The package whose function each function of a module of transformers calls.

    transformers chooses when the module is imported: mamba-ssm's and causal-conv1d's functions
    where they can be imported, else its own.
    """
    found = {}
    for name, function in vars(module).items():
        if inspect.isfunction(function) and hasattr(function, "__wrapped__"):
            chosen = inspect.getclosurevars(function).nonlocals.get("implementation")
            if chosen is not None:
                found[name] = chosen.__module__.partition(".")[0]
    return found


def ways_of(family: str, required: Sequence[str] = (), without: Sequence[str] = ()) -> Ways:
    """Keelback's operators and the peers, each as what is put around a call of the model.

    Raises:
        InputError: a peer is unknown, or a required one is not installed.
    """
    for name in (*required, *without):
        if name not in PEERS:
            raise InputError(f"peer is {name!r}; it should be one of {', '.join(PEERS)}")
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "keelback": use_in_transformers
    }
    absent = _why_not_by_packages(module)
    if absent is None:
        ways["mamba_ssm"] = nullcontext
    elif "mamba_ssm" in required:
        raise InputError(f"peer mamba_ssm cannot be called: {absent}")
    elif "mamba_ssm" not in without:
        print(f"absent: mamba_ssm ({absent})", file=sys.stderr)
    ways["transformers"] = partial(_own_path, module)
    return {name: way for name, way in ways.items() if name not in without}


def _why_not_by_packages(module: ModuleType) -> str | None:
    """What is missing for transformers to call mamba-ssm and causal-conv1d throughout.

    Raises:
        InputError: mamba-ssm is installed, and whether transformers calls it cannot be told.
    """
    computes = who_computes(module)
    if not computes and importlib.util.find_spec("mamba_ssm"):
        version = importlib.import_module("transformers").__version__
        raise InputError(
            f"transformers {version} does not show whether it calls mamba-ssm, which is installed; "
            "5.17 and newer do"
        )
    own = [name for name, package in computes.items() if package == "transformers"]
    if not own and computes:
        return None
    return "transformers does not call it for " + (", ".join(own) or "any function")


def _own_path(module: ModuleType) -> Replacement:
    """transformers' own functions in the place of those that it chose."""
    replacement = Replacement()
    for name in who_computes(module):
        replacement.attribute(module, name, inspect.unwrap(getattr(module, name)))
    return replacement


def benchmark(
    size: ModelSize,
    device: str,
    repeats: int,
    new_tokens: int = 64,
    required: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Benchmark:
    """Seconds of a training step, and tokens that are generated a second.

    A training step is forward and backward, without the optimizer. Generation is greedy, from a
    prompt of 32 tokens; the tokens of all sequences of the batch count. Each is the median of calls
    side by side in one process; one that takes more than 10 seconds is run once.

    Its result has `rows`, one for each way; `ratios`, how many times longer a peer's training step
    takes, and its generation; `differences`, how far the loss of a peer and the gradients of the
    layers' parameters are from ours, relative, in the Euclidean norm; `refused`, what a peer said
    that could not do it. Measuring raises a JobError where the loss or the gradient of a peer is
    not ours.

    Raises:
        InputError: a peer or the dtype is unknown, or a required peer is not installed.
    """
    ways = ways_of(size.family, required, without)
    dtype_named(size.dtype)
    about = {
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **asdict(size),
    }
    group = Group(
        {name: name for name in ("training", "generation")},
        partial(_measured, size, ways, device, repeats, new_tokens),
    )
    return Benchmark([group], partial(_result, list(ways), size.batch * new_tokens), about)


def _measured(
    size: ModelSize,
    ways: Ways,
    device: str,
    repeats: int,
    new_tokens: int,
    chosen: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Milliseconds by each way of training or generation, and what it takes to read them."""
    model = size.model(device)
    parameters = sum(p.numel() for p in model.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (size.batch, size.length)
    tokens = torch.randint(size.vocabulary, shape, generator=generator).to(device)
    found: dict[str, list[Tensor]] = {}
    differences: dict[str, dict[str, float]] = {}

    def trained(way: str) -> None:
        step = [_training_step(model, tokens), *_gradients_of_layers(model)]
        if way == "keelback":
            found["ours"] = [x.clone() for x in step]
        else:
            differences[way] = _differences(step, found["ours"])
            _require_same(way, differences[way], dtype_named(size.dtype))

    train = partial(_training_step, model, tokens)
    generate = partial(_generate, model, tokens[:, :_PROMPT], new_tokens)
    for what in chosen:
        refused: dict[str, str] = {}
        run = partial(_milliseconds, ways, device, repeats, refused, what)
        times = run(train, trained) if what == "training" else run(generate, lambda _: generate())
        yield {
            "ms": times,
            "parameters": parameters,
            "differences": dict(differences) if what == "training" else {},
            "refused": refused,
        }


def _result(ways: Sequence[str], generated: int, found: Found) -> dict[str, Any]:
    times = {what: one["ms"] for what, one in found.items()}
    training, generation = times.get("training", {}), times.get("generation", {})
    return {
        "parameters": max(one["parameters"] for one in found.values()),
        "rows": [
            {
                "scan": way,
                "seconds a training step": training[way] / 1e3 if way in training else None,
                "generated tokens a second": 1e3 * generated / generation[way]
                if way in generation
                else None,
            }
            for way in ways
        ],
        "ratios": {what: _ratios(ms) for what, ms in times.items()},
        "differences": {
            way: of for one in found.values() for way, of in one["differences"].items()
        },
        "refused": {name: said for one in found.values() for name, said in one["refused"].items()},
    }


def _ratios(times: Mapping[str, float]) -> dict[str, float]:
    return {name: ms / times["keelback"] for name, ms in times.items() if name != "keelback"}


def _training_step(model: Any, tokens: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss: Tensor = model.train()(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    return loss.detach()


def _gradients_of_layers(model: Any) -> list[Tensor]:
    """Those of the vocabulary are left out: they hardly depend on the layers."""
    named = model.named_parameters()
    return [p.grad for name, p in named if ".layers." in name and p.grad is not None]


def _differences(step: Sequence[Tensor], ours: Sequence[Tensor]) -> dict[str, float]:
    return {
        "loss": _difference(step[:1], ours[:1]),
        "gradients": _difference(step[1:], ours[1:]),
    }


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    apart = torch.stack([(x.float() - y.float()).norm() for x, y in pairs]).norm()
    return float(apart / torch.stack([y.float().norm() for y in expected]).norm())


def _generate(model: Any, prompt: Tensor, new_tokens: int) -> None:
    mask = torch.ones_like(prompt)
    model.eval().generate(prompt, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)


def _milliseconds(
    ways: Ways,
    device: str,
    repeats: int,
    refused: dict[str, str],
    what: str,
    call: Callable[[], object],
    first: Callable[[str], object],
) -> dict[str, float]:
    """Of a call by each way, after `first` in the same way; without the peers that fail."""
    slow: dict[str, float] = {}
    quick: list[str] = []
    for name, way in ways.items():
        start = time.perf_counter()
        try:
            with way():
                first(name)
        except (RuntimeError, NotImplementedError) as error:
            if name == "keelback" or isinstance(error, JobError):
                raise
            message = first_line(error)
            refused[f"{name}, {what}"] = message
            print(f"refused: {name}, {what} ({message})", file=sys.stderr)
            continue
        seconds = time.perf_counter() - start
        if seconds > SLOW and name == "transformers":  # It has nothing to compile first.
            slow[name] = 1e3 * seconds
        else:
            quick.append(name)
    times = slow | interleaved_medians(dict.fromkeys(quick, call), device, repeats, around=ways)
    for name, ms in times.items():
        print(f"{what}, {name}: {ms:.4g} ms", file=sys.stderr)
    return {name: times[name] for name in ways if name in times}


def _require_same(name: str, differences: Mapping[str, float], dtype: torch.dtype) -> None:
    """The loss and the gradients of a peer are ours, up to rounding.

    Raises:
        JobError: one is not.
    """
    print(f"differences of {name} from keelback: {dict(differences)}", file=sys.stderr)
    allowed = _DIFFERENT[dtype.itemsize < 4]
    for what, found in differences.items():
        if not found <= allowed:
            raise JobError(f"the {what} of {name} differ from keelback's by {found:.3g}")
