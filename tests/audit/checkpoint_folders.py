"""Folders as people have them: in shards, in mixed types, with towers and files of all kinds."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from keelback.audit import LoadedModel, Repair, load_any_model, repair, save_repaired

TOKENS = torch.randint(3, 60, (160,), generator=torch.Generator().manual_seed(5))


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path in the folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def with_company(folder: Path) -> Path:
    """Files beside the weights, such as published checkpoints have."""
    (folder / "README.md").write_text("---\nlicense: other\n---\nA model.\n", encoding="utf-8")
    (folder / "modeling_custom.py").write_text("raise SystemExit('never run')\n")
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))
    (folder / "assets" / "figures").mkdir(parents=True)
    (folder / "assets" / "figures" / "loss.png").write_bytes(b"\x89PNG")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    return folder


def in_types(folder: Path, type_of: Callable[[str], torch.dtype]) -> None:
    """Rewrite every safetensors file with each tensor in the type that `type_of` gives for it."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        tensors = {
            name: x.to(type_of(name)) if x.is_floating_point() else x
            for name, x in load_file(file).items()
        }
        save_file(tensors, file, metadata)


def in_shards(folder: Path, count: int) -> None:
    """Split `model.safetensors` into shards with an index."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    weight_map = {
        name: f"model-{i % count + 1:05}-of-{count:05}.safetensors"
        for i, name in enumerate(sorted(tensors))
    }
    for file in set(weight_map.values()):
        own = {name: tensors[name] for name, at in weight_map.items() if at == file}
        save_file(own, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0, "note": "kept"}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def forced_repair(folder: Path, out: Path, **options: Any) -> tuple[LoadedModel, Repair]:
    """Edit the rates of the model in `folder` whatever that is worth, and write it to `out`."""
    loaded = load_any_model(folder)
    result = repair(
        loaded.model,
        TOKENS,
        target_length=40,
        train_length=20,
        **{"method": "rate-scale", "search": "shared", **options},
        stored_as=loaded.stored_types,
        locked=loaded.locked,
        force=True,
    )
    save_repaired(loaded, result, out)
    return loaded, result
