"""Settings of a `config.json` that the model which is made of it does not use."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

# fmt: off
BOOKKEEPING = frozenset((
    "architectures", "auto_map", "model_type", "transformers_version", "dtype", "torch_dtype",
    "quantization_config", "name_or_path", "_name_or_path", "_commit_hash",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "experts_implementation", "tokenizer_class", "finetuning_task", "task_specific_params",
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript",
    "tf_legacy_loss", "use_bfloat16", "pruned_heads", "prefix", "is_decoder",
    "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size",
    "tie_encoder_decoder", "decoder_start_token_id", "sep_token_id", "gradient_checkpointing",
    "fused_add_norm", "use_mamba_kernels", "use_mambapy", "use_falcon_mambapy",
    "use_associative_scan", "pad_vocab_size_multiple", "id2label", "label2id", "num_labels",
    "problem_type", "chunk_size_feed_forward", "remove_invalid_values",
    "exponential_decay_length_penalty",
))
# fmt: on
"""Settings that say where a model comes from or how it is run, not what it computes."""

RESTATED = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "d_inner": "intermediate_size",
}
"""Names of mamba_ssm that conversion scripts leave beside those of transformers."""

ALWAYS = {"rms_norm": True, "rmsnorm": True, "norm_before_gate": False}
"""What the state-space layers of transformers do whatever their configuration says."""


def unused_settings(given: Mapping[str, Any], config: Any, model: Any) -> list[str]:
    """Settings in `given` that neither the configuration class nor the model's code knows.

    A setting is used where it is a field of the class, another name of one, something that the
    class works out for itself, or a word of the module that defines the model. Nested
    configurations are looked through as well, under dotted names.

    Args:
        given: the content of `config.json`.
        config: the configuration of transformers that was made of it.
        model: the model that was made of that, or its class.
    """
    return sorted(_unused(given, config, _code_of(model)))


def _unused(given: Mapping[str, Any], config: Any, code: str) -> Iterator[str]:
    known = _known(config)
    for name, value in given.items():
        inner = getattr(config, name, None)
        if (
            isinstance(value, Mapping)
            and hasattr(inner, "to_dict")
            and hasattr(inner, "model_type")
        ):
            yield from (f"{name}.{below}" for below in _unused(value, inner, code))
        elif not _is_used(name, value, config, known, code):
            yield name


def _is_used(name: str, value: Any, config: Any, known: frozenset[str], code: str) -> bool:
    if name in ALWAYS:
        return value is None or bool(value) == ALWAYS[name]
    if name in RESTATED and hasattr(config, RESTATED[name]):
        return bool(value == getattr(config, RESTATED[name]))
    if name in BOOKKEEPING or name in known or _says_nothing(value):
        return True
    return re.search(rf"\b{re.escape(name)}\b", code) is not None


def _says_nothing(value: Any) -> bool:
    return value is None or value in ("", {}, [])


def _known(config: Any) -> frozenset[str]:
    """Fields of the class, other names of them, what it works out, and legacy names it takes in."""
    cls = type(config)
    names = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    names |= set(inspect.signature(cls.__init__).parameters)
    names |= set(getattr(cls, "attribute_map", {})) | set(_generation_settings())
    try:
        names |= set(vars(cls()))
    except Exception:  # a class that cannot be made without arguments tells nothing more
        names |= set()
    names |= {name for name in dir(cls) if isinstance(inspect.getattr_static(cls, name), property)}
    return frozenset(names | _words(sys.modules.get(cls.__module__)))


def _generation_settings() -> list[str]:
    transformers = sys.modules["transformers"]
    return list(vars(transformers.GenerationConfig()))


def _words(module: Any) -> set[str]:
    """Words that a configuration's module takes from its keyword arguments or its attributes."""
    source = _source(module)
    taken = re.findall(r"""(?:kwargs(?:\.pop|\.get)\(|getattr\(self, |self\.)["']?(\w+)""", source)
    quoted = re.findall(r"""["'](\w+)["']""", source)
    return {*taken, *quoted, "rope_theta", "rope_scaling", "partial_rotary_factor"}


def _code_of(model: Any) -> str:
    cls = model if isinstance(model, type) else type(model)
    modules = {c.__module__ for c in cls.__mro__ if c.__module__.startswith("transformers.models.")}
    if not isinstance(model, type):
        own = {type(part).__module__ for part in model.modules()}
        modules |= {name for name in own if name.startswith("transformers.models.")}
    return "\n".join(_source(sys.modules.get(name)) for name in sorted(modules))


def _source(module: Any) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""
