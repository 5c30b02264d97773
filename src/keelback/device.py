"""Which device to compute on."""

from keelback.errors import InputError

DEVICES = ("cpu", "cuda")


def default_device() -> str:
    """The GPU if there is one, otherwise the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen_device(name: str | None) -> str:
    """The device of that name, or the default one where none is named.

    Raises:
        InputError: an unknown device, or one that is not there.
    """
    if name is None:
        return default_device()
    if name not in DEVICES:
        raise InputError(f"device is {name!r}; it should be one of {', '.join(DEVICES)}")
    if name == "cuda" and default_device() != "cuda":
        raise InputError("device is 'cuda', and PyTorch finds no NVIDIA GPU here; use 'cpu'")
    return name
