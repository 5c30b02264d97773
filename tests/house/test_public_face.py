"""What a user finds by name: the rooms, the names out of them, and names at their old places."""

import importlib
import subprocess
import sys

import pytest

import keelback

MOVED = {
    "keelback.data": ("Locality", "MajorityVoting", "sample_patterns", "GaussianNoise"),
    "keelback.bounds": ("certify_class", "certify_pac_bayes", "measure_constants"),
    "keelback.experiments": ("Store", "sweep", "TrainingRun", "Outcome"),
}


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", [*keelback._ROOMS, *keelback._NAMES])
def test_every_public_name_is_shown_and_there(name: str) -> None:
    assert name in dir(keelback)
    assert getattr(keelback, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keelback.nothing


@pytest.mark.parametrize("room", MOVED)
def test_a_moved_name_is_still_at_its_old_place(room: str) -> None:
    for name in MOVED[room]:
        with pytest.warns(DeprecationWarning, match=f"{room}.{name} has moved"):
            assert getattr(importlib.import_module(room), name).__name__ == name


@pytest.mark.parametrize(
    ("room", "name", "now"),
    [
        ("keelback.audit", "load_model", "load_any_model"),
        ("keelback.benchmarks", "Shape", "ScanSize"),
        ("keelback.certify", "require_bytes", "require_alphabet"),
    ],
)
def test_a_renamed_thing_is_still_there_by_its_old_name(room: str, name: str, now: str) -> None:
    module = importlib.import_module(room)
    with pytest.warns(DeprecationWarning, match=f"{room}.{name} is {room}.{now} now"):
        assert getattr(module, name) is getattr(module, now)
    assert name not in module.__all__


def test_drawing_does_not_load_the_experiments() -> None:
    loaded = loaded_after("import keelback.report")
    assert "keelback.outcome" in loaded
    assert not any(name.startswith(("keelback.experiments", "torch")) for name in loaded)


def test_bounds_need_neither_torch_nor_numba() -> None:
    loaded = loaded_after("import keelback.bounds")
    assert not {"torch", "numba"} & loaded


def test_sweeps_need_no_experiment() -> None:
    loaded = loaded_after("import keelback.sweeps")
    assert not any(name.startswith("keelback.experiments") for name in loaded)
