"""What is asked of a model that was built by code from outside, and of the logits that it gives."""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from keelback.errors import InputError
from keelback.models.sequence_classifier import SequenceMixer
from keelback.plugins import bound_to, check_output, located


def check_models_of(config: Any) -> None:
    """Let the models that a configuration from outside builds start from the seed, and be checked.

    The layers of `torch.nn` take their initial values from PyTorch's global generator. It is seeded
    as the generator that `build` is given, so that a model depends on that alone.
    """
    if not hasattr(config.build, _SEEDED):
        config.build = _seeded(inspect.getattr_static(config, "build"))
    check_output(config, "build", checked_model)
    check_output(config, "mixer", checked_mixer)


_SEEDED = "__keelback_seeded__"


def _seeded(build: Any) -> Any:
    @functools.wraps(build)
    def from_seed(config: Any, generator: torch.Generator | None = None) -> Any:
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(generator.initial_seed())
            return bound_to(build, config, generator)

    setattr(from_seed, _SEEDED, True)
    return from_seed


def checked_mixer(config: Any, mixer: object, *_: Any, **__: Any) -> SequenceMixer:
    """The mixer, if it is one.

    Raises:
        InputError: it is not, or does not say how wide its output is.
    """
    if not isinstance(mixer, SequenceMixer):
        given = "None" if mixer is None else f"a {type(mixer).__name__}"
        raise InputError(f"model {config.kind}: mixer() gives {given}, not a SequenceMixer")
    width = getattr(mixer, "d_output", None)
    if not isinstance(width, int) or width < 1:
        raise InputError(f"model {config.kind}: the mixer's d_output is {width!r}, not its width")
    return mixer


def checked_model(config: Any, model: object, *_: Any, **__: Any) -> nn.Module:
    """The model, with its configuration as `config`, if it can be trained and stored.

    Its logits are checked from now on, whenever it is called.

    Raises:
        InputError: it is no module, has nothing to learn, parameters of several types or other than
            real floating point, or a state that is more than its parameters.
    """
    kind = config.kind
    if not isinstance(model, nn.Module):
        given = "None" if model is None else f"a {type(model).__name__}"
        raise InputError(f"model {kind}: build() gives {given}, not a torch.nn.Module")
    parameters = dict(model.named_parameters())
    if not parameters:
        raise InputError(f"model {kind} has no parameters")
    first = next(iter(parameters))
    for name, parameter in parameters.items():
        if not parameter.is_floating_point() or parameter.dtype != parameters[first].dtype:
            raise InputError(
                f"model {kind}: the parameter {name} is {_type(parameter)} and {first} is "
                f"{_type(parameters[first])}; all should be of one floating-point type"
            )
        if not parameter.requires_grad:
            raise InputError(
                f"model {kind}: the parameter {name} is frozen, and every parameter is trained; "
                "make it a buffer: register_buffer(..., persistent=False)"
            )
    more = sorted(model.state_dict().keys() ^ parameters.keys())
    if more:
        raise InputError(
            f"model {kind}: {more[0]} is part of the model's state dict but no parameter of its "
            "own; register buffers with persistent=False, and do not share parameters"
        )
    if getattr(model, "config", config) is not config:
        raise InputError(f"model {kind}: its `config` is not the configuration that built it")
    model.config = config
    model.register_forward_hook(_check_logits, with_kwargs=True)
    return model


def _check_logits(
    model: Any, inputs: tuple[Any, ...], named: dict[str, Any], logits: object
) -> None:
    tokens = inputs[0] if inputs else next(iter(named.values()))
    try:
        require_logits(model.config, tokens, logits)
    except InputError as error:
        raise located(error, type(model.config), type(model).forward) from None


def require_logits(config: Any, tokens: Tensor, logits: object) -> None:
    """Check that logits have the type and shape that the configuration calls for.

    Raises:
        InputError: they have not.
    """
    classes = getattr(config, "n_classes", None)
    if classes is None:
        wanted = (*tokens.shape, config.vocab_size)
    else:
        wanted = tokens.shape[:-1] if classes == 2 else (*tokens.shape[:-1], classes)
    if not isinstance(logits, Tensor):
        given = "None" if logits is None else f"a {type(logits).__name__}"
        raise InputError(f"model {config.kind}: logits are {given}, not a tensor")
    if not logits.is_floating_point() or tuple(logits.shape) != tuple(wanted):
        raise InputError(
            f"model {config.kind}: logits of tokens {tuple(tokens.shape)} are {_type(logits)} of "
            f"shape {tuple(logits.shape)}; they should be floating point of shape {tuple(wanted)}"
        )


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
