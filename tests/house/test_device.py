"""One choice of a device, with one error."""

import pytest
import torch

from keelback.device import chosen_device, default_device
from keelback.errors import InputError


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_default_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert default_device() == device
    assert chosen_device(None) == device
    assert chosen_device("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device is 'cuda', and PyTorch finds no NVIDIA GPU here"):
        chosen_device("cuda")


@pytest.mark.parametrize("name", ["tpu", "", "CUDA", "cuda:0"])
def test_another_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device is '{name}'; it should be one of cpu, cuda"):
        chosen_device(name)
