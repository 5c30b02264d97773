"""Settings of a `config.json` that the model which is made of it does not use."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, fields, is_dataclass
from typing import Any

from keelback.audit.checkpoints._config_reads import settings_read

# fmt: off
BOOKKEEPING = frozenset((
    "architectures", "auto_map", "model_type", "transformers_version", "dtype", "torch_dtype",
    "quantization_config", "name_or_path", "_name_or_path", "_commit_hash",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "experts_implementation", "tokenizer_class", "finetuning_task", "task_specific_params",
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript",
    "tf_legacy_loss", "use_bfloat16", "prefix", "is_decoder",
    "is_encoder_decoder", "cross_attention_hidden_size",
    "decoder_start_token_id", "sep_token_id", "gradient_checkpointing",
    "fused_add_norm", "use_mamba_kernels", "use_mambapy", "use_falcon_mambapy",
    "use_associative_scan", "pad_vocab_size_multiple", "id2label", "label2id", "num_labels",
    "problem_type", "chunk_size_feed_forward", "remove_invalid_values",
    "exponential_decay_length_penalty", "num_logits_to_keep", "calc_logits_for_entire_prompt",
    "rescale_prenorm_residual", "force_bos_token_insert",
))
"""Settings that say where a model comes from or how it is run, not what it computes."""

NOT_COMPUTED_WITH = BOOKKEEPING | frozenset((
    "initializer_range", "tie_word_embeddings", "max_position_embeddings", "pretraining_tp",
    "output_router_logits", "router_aux_loss_coef", "mtp_loss_scaling_factor", "use_mem_eff_path",
    "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "force_image_size",
    "split_ngram_parts", "hidden_dropout", "num_hidden_layers",
    "chunkwise_kernel", "sequence_kernel", "step_kernel",
))
# fmt: on
"""The same of settings that configuration classes of transformers declare."""

RESTATED = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "d_inner": "intermediate_size",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "ngroups": "n_groups",
    "headdim": "head_dim",
    "dt_rank": "time_step_rank",
    "dt_limit": "time_step_limit",
    "activation": "hidden_act",
    "_block_types": "block_types",
}
"""Names of mamba_ssm or of older releases that are left beside those of transformers."""

ALWAYS = {
    "rms_norm": True,
    "rmsnorm": True,
    "norm_before_gate": False,
    "mamba_inner_layernorms": True,
    "dt_softplus": True,
}
"""What the state-space layers of transformers do whatever their configuration says."""


ONLY_IF_READ = ("add_cross_attention", "pruned_heads", "rope_scaling", "tie_encoder_decoder")
"""What the base class of all configurations takes up, and few models compute with."""


def unused_settings(given: Mapping[str, Any], config: Any, model: Any) -> list[str]:
    """Settings in `given` that neither the configuration class nor the model's code reads.

    A setting is used where the class takes it up (as a field, another name of one, or something
    that it works out for itself) or the code that defines the model reads it. A field of the class
    that no code reads is not used either, where it has another value than by default and may say
    what is computed. Nested configurations are looked through as well, under dotted names.

    Args:
        given: the content of `config.json`.
        config: the configuration of transformers that was made of it.
        model: the model that was made of that, or its class.
    """
    code = _code_of(model)
    return sorted(_unused(given, config, settings_read(code) if code else None))


def _unused(
    given: Mapping[str, Any], config: Any, read: frozenset[str] | None, part: str = ""
) -> Iterator[str]:
    idle = frozenset() if read is None else _idle_fields(config, read, part)
    known = _known(config)
    for name, value in given.items():
        inner = getattr(config, name, None)
        if (
            isinstance(value, Mapping)
            and hasattr(inner, "to_dict")
            and hasattr(inner, "model_type")
        ):
            yield from (f"{name}.{below}" for below in _unused(value, inner, read, name))
        elif name in idle or not _is_used(name, value, config, known, read):
            yield name


def _is_used(
    name: str, value: Any, config: Any, known: frozenset[str], read: frozenset[str] | None
) -> bool:
    if name in ALWAYS:
        return value is None or bool(value) == ALWAYS[name]
    if name in ONLY_IF_READ and read is not None:
        return not value or name in read or (name == "rope_scaling" and "rope_parameters" in read)
    if name in BOOKKEEPING or name in known | (read or frozenset()) or _says_nothing(value):
        return True
    own = getattr(config, RESTATED[name], None) if name in RESTATED else None
    return own is not None and _plain(own) == _plain(value)


def _says_nothing(value: Any) -> bool:
    return value is None or value in ("", {}, [])


def _known(config: Any) -> frozenset[str]:
    """Fields of the class, other names of them, what it works out, and legacy names it takes in."""
    cls = type(config)
    names = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    names |= set(inspect.signature(cls.__init__).parameters)
    names |= set(getattr(cls, "attribute_map", {})) | set(_generation_settings())
    with suppress(Exception):  # a class that cannot be made without arguments tells nothing more
        names |= set(vars(cls()))
    names |= {name for name in dir(cls) if isinstance(inspect.getattr_static(cls, name), property)}
    return frozenset(names | _taken_up(cls) | _OF_ROTATION)


_OF_ROTATION = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
"""Which the base class of all configurations takes up."""


def _taken_up(cls: type) -> set[str]:
    """Settings that a configuration class reads of itself or of its keyword arguments."""
    names: set[str] = set()
    for module in {c.__module__ for c in cls.__mro__ if c.__module__.startswith(_MODELS)}:
        source = _source(sys.modules.get(module))
        names |= settings_read(source, "self", exports=False)
        names |= settings_read(source, "kwargs", exports=False)
    return names


def _idle_fields(config: Any, read: frozenset[str], part: str) -> frozenset[str]:
    """Fields that the class adds to every configuration's, that nothing reads, and that are set.

    Args:
        part: under which name the configuration stands in that of the whole model, if in any.
    """
    cls, base = type(config), sys.modules["transformers"].PreTrainedConfig
    if not (is_dataclass(cls) and is_dataclass(base)) or _is_of_another_kind_of_input(config, part):
        return frozenset()
    names = {own.name: own for own in fields(cls)}
    for own in fields(base):
        names.pop(own.name, None)
    aliases = getattr(cls, "attribute_map", {})
    used = read | _taken_up(cls) | {aliases.get(name, name) for name in read}
    return frozenset(
        name
        for name, own in names.items()
        if name not in used
        and name not in NOT_COMPUTED_WITH
        and not name.endswith(("_token_id", "_token"))
        and _plain(getattr(config, name, None)) != _plain(_default(own))
    )


def _is_of_another_kind_of_input(config: Any, part: str) -> bool:
    """Whether it is of a tower for images or sound, which no audit is about."""
    own = (str(getattr(config, name, "")) for name in ("model_type", "base_config_key"))
    words = (*own, part)
    return any(kind in word for word in words for kind in ("vision", "audio", "speech"))


def _default(own: Field[Any]) -> Any:
    return own.default_factory() if callable(own.default_factory) else own.default


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _generation_settings() -> list[str]:
    transformers = sys.modules["transformers"]
    return list(vars(transformers.GenerationConfig()))


_MODELS = ("transformers.models.", "fla.models.")
"""Packages with the code of models."""


def _code_of(model: Any) -> str:
    cls = model if isinstance(model, type) else type(model)
    modules = {c.__module__ for c in cls.__mro__ if c.__module__.startswith(_MODELS)}
    if not isinstance(model, type):
        own = {type(part).__module__ for part in model.modules()}
        modules |= {name for name in own if name.startswith(_MODELS)}
    return "\n".join(_source(sys.modules.get(name)) for name in sorted(modules))


def _source(module: Any) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""
