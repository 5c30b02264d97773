"""Checkpoints that would be another model than was saved are refused, by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import TOKENS, forced_repair
from safetensors.torch import load_file, save_file

from keelback.audit import audit, load_any_model, undo_repair
from keelback.benchmarks.composite_families import jev
from keelback.cli import main
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")


def saved(model: Any, folder: Path, **fields: Any) -> Path:
    """A model in a folder, with these settings in its configuration."""
    model.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def change(folder: Path, ending: str, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Give the first tensor whose name ends so another value."""
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith(ending))
    tensors[name] = value(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_class_that_the_checkpoint_brings_as_code(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = saved(
        tiny_model("mamba"),
        tmp_path / "m",
        architectures=["ReversedMambaForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling_reversed.ReversedMambaForCausalLM"},
    )
    with pytest.raises(InputError, match=r"ReversedMambaForCausalLM .*brings as code \(auto_map\)"):
        load_any_model(folder)
    loaded = load_any_model(folder, ignore=["architectures"])
    assert type(loaded.model).__name__ == "MambaForCausalLM"


def test_a_class_of_another_type(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    folder = saved(tiny_model("mamba"), tmp_path / "m", architectures=["Mamba2ForCausalLM"])
    with pytest.raises(InputError, match="made of a Mamba2Config, and its model_type 'mamba'"):
        load_any_model(folder)


def test_a_tensor_of_another_shape_is_named(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = saved(tiny_model("mamba"), tmp_path / "m")
    change(folder, "mixer.D", lambda x: x[:3].clone())
    with pytest.raises(InputError, match=r"another shape than its model: .*layers\.0\.mixer\.D$"):
        load_any_model(folder)


def test_a_buffer_that_is_not_a_number(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    """Such as the bias by which experts are chosen, which is no parameter."""
    folder = saved(tiny_model("nemotron-h-experts"), tmp_path / "m")
    change(folder, "e_score_correction_bias", lambda x: torch.full_like(x, float("nan")))
    with pytest.raises(InputError, match=r"4 of 4 entries of .*e_score_correction_bias are NaN"):
        load_any_model(folder)


def test_a_buffer_may_be_infinite() -> None:
    from keelback.audit._model import check_weights

    model = torch.nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    check_weights(model)
    model.register_buffer("scratch", torch.tensor([float("nan")]), persistent=False)
    check_weights(model)
    model.register_buffer("bias_of_experts", torch.tensor([float("nan")]))
    with pytest.raises(InputError, match="bias_of_experts are NaN"):
        check_weights(model)


@pytest.fixture(scope="module")
def decider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that decides at marks in a text; its class loads in a way of its own."""
    torch.manual_seed(0)
    try:
        model = jev()
    except InputError as error:
        pytest.skip(str(error))
    return saved(model, tmp_path_factory.mktemp("jev") / "model")


def test_a_model_that_decides(
    decider: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_any_model(decider)
    assert type(loaded.model).__name__ == "JevForDecision"
    assert set(loaded.names) == {name for name, _ in loaded.model.named_parameters()}
    inputs = {
        "input_ids": TOKENS[None, :60],
        "marks": torch.tensor([[30, 55]]),
        "num_options": torch.tensor([[2, 3]]),
        "question_type_ids": torch.tensor([[0, 2]]),
    }
    result = audit(loaded.model, inputs)
    assert len(result.measures) == 3
    assert all(own.replay.is_proof for own in result.measures)
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(TOKENS.tolist()))
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(decider), "--tokens", str(ids)])
    assert ended.value.code == 2
    assert "takes marks, num_options, question_type_ids besides" in capsys.readouterr().err


def test_weights_that_its_class_reads_from_another_file(decider: Path, tmp_path: Path) -> None:
    tensors = load_file(decider / "model.safetensors")
    names = load_any_model(decider).names
    head = {names[own]: tensors.pop(names[own]) for own in ("proj.weight", "proj.bias")}
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    save_file(head, folder / "head.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((decider / "config.json").read_bytes())
    loaded = load_any_model(folder)
    assert loaded.stored("proj.weight").file.name == "head.safetensors"
    assert torch.equal(loaded.model.proj.weight, head[names["proj.weight"]])


def test_a_composite_with_ears_and_a_clock(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = saved(tiny_model("nemotron-3.5-transcribe"), tmp_path / "m")
    _, result = forced_repair(folder, tmp_path / "repaired", evaluations=0)
    assert len(result.replaced) == 2
    undo_repair(tmp_path / "repaired", tmp_path / "undone")
    for file in folder.iterdir():
        assert (tmp_path / "undone" / file.name).read_bytes() == file.read_bytes()


def test_a_type_that_transformers_lacks_is_named(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = saved(tiny_model("mamba"), tmp_path / "m", model_type="gated_keel")
    with pytest.raises(InputError, match=r"of the type 'gated_keel' .* the installed transformers"):
        load_any_model(folder)
