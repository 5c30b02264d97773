"""Which models there are, by the `kind` that names them in a configuration."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from keelback.errors import InputError, describe, nearest
from keelback.memory import require_memory
from keelback.models._built import check_models_of
from keelback.models.attention import SoftmaxAttentionConfig
from keelback.models.deeper import MambaBlocksConfig, SelectiveStackConfig
from keelback.models.linear_attention import LinearAttentionConfig
from keelback.models.lti import DiagonalLTIConfig
from keelback.models.mamba_stack import MambaClassifierConfig, MambaLanguageModelConfig
from keelback.models.other_states import ComplexSSMConfig, DenseSSMConfig
from keelback.models.rnn import VanillaRNNConfig
from keelback.models.selective_ssm import SelectiveSSMConfig
from keelback.models.sequence_classifier import SequenceClassifierConfig
from keelback.registry import Registry, is_from_outside


@runtime_checkable
class ModelConfig(Protocol):
    """The fields that every classifier's configuration, a frozen pydantic model, has.

    Examples:
        >>> config = SelectiveSSMConfig(vocab_size=2)
        >>> isinstance(config, ModelConfig), config.kind
        (True, 'selective-ssm')
    """

    kind: Any
    vocab_size: int
    n_classes: int

    def build(self, generator: torch.Generator | None = None) -> nn.Module:
        """A freshly initialised classifier of token sequences."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """What training and evaluation ask of a model: logits from tokens.

    Examples:
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> model.config.kind  # its configuration builds it again
        'selective-ssm'
    """

    def __call__(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch *classes"]:
        """`(batch,)` for two classes, `(batch, n_classes)` otherwise."""
        ...


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def register_model(config: type[ConfigT]) -> type[ConfigT]:
    """Make a model known by its configuration's class; use it as a class decorator.

    The configuration is a frozen pydantic model with the fields `kind` (a name, its default),
    `vocab_size` and, for a classifier, `n_classes`, and a method `build(generator)` that gives the
    module. The module turns tokens `(batch, length)` into logits: `(batch,)` for two classes,
    `(batch, n_classes)` for more, `(batch, length, vocab_size)` without `n_classes`. It is checked
    when it is built, and its logits whenever it is called.

    Raises:
        InputError: it is no such class, or another model has its kind.

    Examples:
        >>> from typing import Literal
        >>> @register_model
        ... class WideConfig(SelectiveSSMConfig):
        ...     kind: Literal["wide-of-an-example"] = "wide-of-an-example"
        ...     d_model: int = 32
        >>> model_config({"kind": "wide-of-an-example", "vocab_size": 2}).d_model
        32
    """
    kind = _kind_of(config)
    if is_from_outside(config):
        check_models_of(config)
    MODELS.add(kind, config)
    return config


def _kind_of(config: Any) -> str:
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise InputError(
            f"{config!r} is no configuration of a model: derive the class from pydantic's BaseModel"
        )
    fields = config.model_fields
    lacking = [name for name in ("kind", "vocab_size") if name not in fields]
    lacking += [] if callable(getattr(config, "build", None)) else ["a method build(generator)"]
    if getattr(config, "mixer", None) is SequenceClassifierConfig.mixer:
        lacking.append("a method mixer(generator)")
    if lacking:
        raise InputError(
            f"the model configuration {config.__qualname__} lacks {', '.join(lacking)}"
        )
    if not config.model_config.get("frozen"):
        raise InputError(
            f"the model configuration {config.__qualname__} can be changed after it was made: give "
            "it model_config = ConfigDict(frozen=True, extra='forbid')"
        )
    kind: str = fields["kind"].default
    return kind


MODELS: Registry[type[BaseModel]] = Registry("model", "keelback.models", register_model)
"""Configurations by kind. `register_model` adds to it, and so do installed packages."""

for _config in (
    SelectiveSSMConfig,
    SoftmaxAttentionConfig,
    LinearAttentionConfig,
    DiagonalLTIConfig,
    VanillaRNNConfig,
    MambaClassifierConfig,
    MambaLanguageModelConfig,
    ComplexSSMConfig,
    DenseSSMConfig,
    SelectiveStackConfig,
    MambaBlocksConfig,
):
    register_model(_config)


def require_room(config: ModelConfig, copies: int = 1) -> None:
    """Refuse a model whose weights would not fit into memory; nothing large is made to find out.

    `copies` is how often the weights are there at once: five times in training, with their
    gradients, Adam's two moments and the values that come back at the end.

    Raises:
        InputError: they would not, or a size is too large for a tensor.

    Examples:
        >>> require_room(SelectiveSSMConfig(vocab_size=2), copies=5)  # it fits: nothing to say
    """
    try:
        weights = _weights_of(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        if "meta tensors" in str(error):
            return  # Its initial values are read while it is built, which a shape alone lacks.
        reason = str(error).splitlines()[0]
        raise InputError(f"model {config.kind} cannot be built: {reason}") from None
    what = f"the {weights:.3g} weights of the model"
    require_memory(4.0 * copies * weights, what if copies == 1 else f"{copies} copies of {what}")


#: Where the sizes of a model multiply to less it is built to count its weights: on the meta device
#: PyTorch first loads its compiler, for more than a second.
_SMALL = 2**22


def _weights_of(config: Any) -> int:
    """How many weights a model has; of many layers, which are alike, only two are looked at."""
    layers = getattr(config, "n_layers", 1)
    if isinstance(layers, int) and layers > 2:
        one, two = (_weights_of(config.model_copy(update={"n_layers": n})) for n in (1, 2))
        return one + (layers - 1) * (two - one)
    sizes = [abs(x) for x in dict(config).values() if isinstance(x, int) and x]
    if math.prod(sizes) <= _SMALL:
        with torch.random.fork_rng(devices=[]):  # What follows draws the numbers it always drew.
            model = config.build()
    else:
        with torch.device("meta"):
            model = config.build()
    return sum(x.numel() for x in model.parameters())


def model_config(fields: Mapping[str, Any]) -> Any:
    """The configuration that `fields` describe; `fields["kind"]` chooses the class.

    Raises:
        InputError: an unknown kind, or a field that is unknown or has the wrong type or value.

    Examples:
        >>> config = model_config({"kind": "rnn", "vocab_size": 2})
        >>> type(config).__name__
        'VanillaRNNConfig'
    """
    kind = str(fields.get("kind"))
    if kind not in MODELS:
        known = sorted(MODELS)
        raise InputError(
            f"unknown model {kind!r}; there are {', '.join(known)}{nearest(kind, known)}"
        )
    config = MODELS[kind]
    try:
        return config.model_validate(dict(fields))
    except ValidationError as error:
        raise InputError(f"model {kind}: {describe(error, config)}") from None
