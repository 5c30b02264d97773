"""Data-parallel training of the Mamba stack: the loss curve of one process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from keelback.data import Split, get_task
from keelback.models import MambaClassifier, MambaClassifierConfig
from keelback.training import Place, Recipe, train

pytest.importorskip("accelerate")


def model() -> MambaClassifier:
    config = MambaClassifierConfig(vocab_size=2, d_model=8, n_layers=2, d_state=4)
    return config.build(torch.Generator().manual_seed(1))


def split() -> Split:
    task = get_task("majority", seq_len=12, n_train=41, n_test=4, data_seed=1)
    return task.split("train")


def losses(place: Place) -> list[float]:
    """After each epoch; batches of 16, the last one of 9: the shares are uneven."""
    [result] = train([model()], [split()], Recipe(epochs=3, batch_size=16), [1], place=place)
    return [float(row["loss"] or "nan") for row in result.history[1:]]


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from test_mamba_stack_on_two_processes import losses
from keelback.training import AcceleratePlace

with AcceleratePlace(cpu=True) as place:
    found = losses(place)
if place.is_main:
    with open({out!r}, "w") as file:
        json.dump(found, file)
"""


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(
    tmp_path: Path, on_two_processes: Callable[[str], None]
) -> None:
    out = tmp_path / "losses.json"
    on_two_processes(SCRIPT.format(tests=str(Path(__file__).parent), out=str(out)))
    alone = losses(Place())
    assert alone[-1] != alone[0]
    assert json.loads(out.read_text()) == pytest.approx(alone, rel=1e-5)
