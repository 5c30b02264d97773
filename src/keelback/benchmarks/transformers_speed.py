"""A Mamba of Hugging Face transformers with keelback's scan, against its own loop."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.scan_speed import versions
from keelback.integrations import use_in_transformers


@dataclass(frozen=True)
class ModelSize:
    """A Mamba language model and the sequence that it trains on."""

    layers: int = 4
    d_model: int = 768
    vocabulary: int = 50280
    length: int = 512


def _model(size: ModelSize, device: str) -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=size.d_model, num_hidden_layers=size.layers, vocab_size=size.vocabulary
    )
    model: Any = MambaForCausalLM(config)
    return model.to(device)


def _seconds(call: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.accelerator.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _training_step(model: Any, tokens: Tensor) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens, labels=tokens, use_cache=False).loss.backward()

    return step


def _generation(model: Any, prompt: Tensor, new_tokens: int) -> Callable[[], object]:
    return lambda: model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False
    )


def compare_in_transformers(
    size: ModelSize, device: str, repeats: int, new_tokens: int = 64, loop: bool = True
) -> dict[str, Any]:
    """Seconds of a training step on one sequence, and tokens generated a second.

    The loop that transformers falls back to takes long: one step of it is timed, without another
    before, and its times are absent where `loop` is false. Times go to stderr as they are found.
    """
    model = _model(size, device)
    tokens = torch.randint(size.vocabulary, (1, size.length), device=device)
    step = _training_step(model.train(), tokens)
    generate = _generation(model, tokens[:, : min(32, size.length)], new_tokens)
    result: dict[str, Any] = {
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "layers": size.layers,
        "d_model": size.d_model,
        "length": size.length,
    }
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "keelback": use_in_transformers
    }
    if loop:
        ways["loop"] = nullcontext
    for name, way in ways.items():
        with way():
            model.eval()
            _seconds(generate, device)
            per_second = new_tokens / _seconds(generate, device)
            model.train()
            warm = [_seconds(step, device)] if name == "keelback" else []
            times = [_seconds(step, device) for _ in range(repeats if warm else 1)]
        result[f"{name}_generated_per_second"] = per_second
        result[f"{name}_training_step_s"] = min(times)
        print(f"{name}: {min(times):.4g} s, {per_second:.4g} tokens/s", file=sys.stderr)
    if loop:
        result["ratio"] = result["loop_training_step_s"] / result["keelback_training_step_s"]
    result["rows"] = [
        {
            "scan": name,
            "seconds a training step": result[f"{name}_training_step_s"],
            "generated tokens a second": result[f"{name}_generated_per_second"],
        }
        for name in ways
    ]
    return result
