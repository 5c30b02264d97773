"""A repaired folder differs from the original in the edited tensors and nowhere else."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoint_folders import contents, forced_repair, in_shards, in_types, with_company
from safetensors.torch import load_file

from keelback.audit import load_any_model, require_savable, undo_repair
from keelback.audit.checkpoints import REPLACED_FILE, REPORT_FILE
from keelback.audit.checkpoints._files import stored_tensors
from keelback.errors import InputError

transformers = pytest.importorskip("transformers")

OF_THE_REPAIR = {REPORT_FILE, REPLACED_FILE}
SOME_IN_FLOAT32 = ("A_log", "dt_bias", ".D", "gate.weight", "e_score_correction_bias")


def mixed(name: str) -> torch.dtype:
    return torch.float32 if name.endswith(SOME_IN_FLOAT32) else torch.bfloat16


def check_copy(original: Path, repaired: Path, edited: set[str]) -> None:
    """Same files; same bytes but for the edited tensors'; same headers."""
    before, after = contents(original), contents(repaired)
    assert after.keys() - before.keys() == OF_THE_REPAIR
    assert before.keys() <= after.keys()
    report = json.loads((repaired / REPORT_FILE).read_text())
    changed = {name for name in before if before[name] != after[name]}
    assert changed == set(report["files"])
    assert set(report["tensors"]) == edited
    for name in changed:
        old, new = ((folder / name).read_bytes() for folder in (original, repaired))
        assert len(old) == len(new)
        tensors, now = stored_tensors(original / name), stored_tensors(repaired / name)
        assert tensors.keys() == now.keys()
        for key, tensor in tensors.items():
            assert (tensor.dtype, tensor.shape) == (now[key].dtype, now[key].shape)
            assert tensor.place is not None
            same = old[slice(*tensor.place)] == new[slice(*tensor.place)]
            assert same == (report["tensors"].get(key) != name), key
        if name.endswith(".safetensors"):
            header = 8 + int.from_bytes(old[:8], "little")
            assert old[:header] == new[:header]


def check_undo(original: Path, repaired: Path, undone: Path) -> None:
    undo_repair(repaired, undone)
    assert contents(undone) == contents(original)


@pytest.mark.parametrize("family", ["mamba2", "kimi-linear", "nemotron-h-experts", "jamba"])
def test_mixed_types_in_shards(
    tiny_model: Callable[[str], Any], tmp_path: Path, family: str
) -> None:
    original, repaired = tmp_path / "model", tmp_path / "repaired"
    tiny_model(family).save_pretrained(original)
    with_company(original)
    in_types(original, mixed)
    in_shards(original, 3)
    loaded, result = forced_repair(original, repaired)
    check_copy(original, repaired, {loaded.names[name] for name in result.replaced})
    types = {name: t.dtype for f in repaired.glob("model-*") for name, t in load_file(f).items()}
    assert torch.bfloat16 in types.values()
    assert torch.float32 in types.values()
    check_undo(original, repaired, tmp_path / "undone")


def test_a_vision_tower_stays(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    original, repaired = tmp_path / "model", tmp_path / "repaired"
    tiny_model("qwen3.5-vision").save_pretrained(original)
    loaded, result = forced_repair(with_company(original), repaired)
    assert type(loaded.model).__name__ == "Qwen3_5ForConditionalGeneration"
    stored = set(load_file(original / "model.safetensors"))
    assert sum("visual" in name for name in stored) > 10
    edited = {loaded.names[name] for name in result.replaced}
    assert len(edited) == 3
    check_copy(original, repaired, edited)
    assert json.loads((repaired / "config.json").read_text())["model_type"] == "qwen3_5"
    check_undo(original, repaired, tmp_path / "undone")
    again = load_any_model(repaired)
    for name in result.replaced:
        assert torch.equal(again.model.get_parameter(name), loaded.model.get_parameter(name))


def pickled(folder: Path, **options: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", **options)


def test_pickled_weights(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    original, repaired = tmp_path / "model", tmp_path / "repaired"
    tiny_model("mamba2").save_pretrained(original)
    in_types(original, mixed)
    pickled(original)
    _, result = forced_repair(original, repaired)
    check_copy(original, repaired, set(result.replaced))
    assert zipfile.ZipFile(repaired / "pytorch_model.bin").testzip() is None
    read = torch.load(repaired / "pytorch_model.bin", weights_only=True)
    was = torch.load(original / "pytorch_model.bin", weights_only=True)
    changed = {name for name in read if not torch.equal(read[name], was[name])}
    assert changed == set(result.replaced)
    check_undo(original, repaired, tmp_path / "undone")


def test_pickled_shards(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    original, repaired = tmp_path / "model", tmp_path / "repaired"
    tiny_model("mamba").save_pretrained(original)
    tensors = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    names = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        torch.save({n: tensors[n] for n in names if names[n] == file}, original / file)
    index = {"metadata": {}, "weight_map": names}
    (original / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    _, result = forced_repair(original, repaired)
    check_copy(original, repaired, set(result.replaced))
    check_undo(original, repaired, tmp_path / "undone")


def test_pickles_that_cannot_be_edited(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    original = tmp_path / "model"
    tiny_model("mamba").save_pretrained(original)
    pickled(original, _use_new_zipfile_serialization=False)
    assert load_any_model(original).weights is not None
    with pytest.raises(InputError, match=r"no place of its own in pytorch_model\.bin"):
        forced_repair(original, tmp_path / "old")
    assert not (tmp_path / "old").exists()

    shared = tmp_path / "shared"
    shutil.copytree(original, shared)
    tensors = torch.load(original / "pytorch_model.bin", weights_only=True)
    names = [f"backbone.layers.{i}.mixer.A_log" for i in range(2)]
    stacked = torch.stack([tensors[name] for name in names])
    for name, one in zip(names, stacked, strict=True):
        tensors[name] = one
    tensors["backbone.layers.1.mixer.D"] = stacked.view(-1)[: tensors[names[0]].shape[0]]
    torch.save(tensors, shared / "pytorch_model.bin")
    with pytest.raises(InputError, match="share their bytes"):
        forced_repair(shared, tmp_path / "s")


def test_other_weight_files_are_named(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    original, repaired = tmp_path / "model", tmp_path / "repaired"
    tiny_model("mamba").save_pretrained(original)
    torch.save(load_file(original / "model.safetensors"), original / "pytorch_model.bin")
    _, result = forced_repair(original, repaired)
    check_copy(original, repaired, set(result.replaced))
    report = json.loads((repaired / REPORT_FILE).read_text())
    assert report["left_as_they_are"] == ["pytorch_model.bin"]


def test_a_second_repair_and_a_changed_one(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    original, repaired = tmp_path / "model", tmp_path / "repaired"
    tiny_model("mamba").save_pretrained(original)
    forced_repair(original, repaired)
    with pytest.raises(InputError, match="was repaired already; take that back first"):
        forced_repair(repaired, tmp_path / "twice")
    with pytest.raises(InputError, match="lies inside"):
        forced_repair(original, original / "inside")
    tensors = load_file(repaired / "model.safetensors")
    tensors["backbone.norm_f.weight"] += 1
    from safetensors.torch import save_file

    save_file(tensors, repaired / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="was changed after its repair"):
        undo_repair(repaired, tmp_path / "undone")
    assert not (tmp_path / "undone").exists()
    with pytest.raises(InputError, match="was not repaired by keelback"):
        undo_repair(original, tmp_path / "undone")


def test_no_room_for_a_copy_is_said_before_the_search(
    tiny_model: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("mamba").save_pretrained(tmp_path / "model")
    loaded = load_any_model(tmp_path / "model")
    require_savable(loaded, tmp_path / "repaired")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1024))
    with pytest.raises(InputError, match=r"a repair copies .* of weights, and 1\.0 KiB are free"):
        require_savable(loaded, tmp_path / "repaired")


def test_links_are_followed(tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    """As in the cache of the Hub, where a snapshot is made of links."""
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    tiny_model("mamba").save_pretrained(store)
    snapshot.mkdir()
    for file in store.iterdir():
        (snapshot / file.name).symlink_to(file)
    before = contents(store)
    _, result = forced_repair(snapshot, tmp_path / "repaired")
    check_copy(store, tmp_path / "repaired", set(result.replaced))
    assert not any(file.is_symlink() for file in (tmp_path / "repaired").iterdir())
    assert contents(store) == before
