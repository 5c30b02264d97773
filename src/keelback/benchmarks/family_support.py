"""What audit, repair and monitor do with each family of transformers, tried on tiny models."""

import csv
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open

from keelback.audit import (
    TrainingMonitor,
    audit,
    load_any_model,
    repair,
    save_repaired,
    undo_repair,
)
from keelback.audit._losses import LanguageModel
from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.benchmarks.families import EVERY, VOCAB, build
from keelback.errors import InputError

_TRAINED, _LENGTH, _TRAINING_STEPS = 20, 40, 3


def every_family() -> list[str]:
    """All that are tried, in the order of the table."""
    return list(EVERY)


def benchmark(
    of: Sequence[str] | None = None, report: Callable[[str], None] = lambda family: None
) -> Benchmark:
    """One row per family; see `row`."""

    def rows(families: Sequence[str]) -> Iterator[dict[str, Any]]:
        for family in families:
            report(family)
            yield row(family)

    chosen = every_family() if of is None else of
    return Benchmark([Group({family: family for family in chosen}, rows)])


def row(family: str) -> dict[str, Any]:
    """What is done with a tiny random model of a family, saved and loaded as a checkpoint.

    `replay` is the largest relative difference, over the layers, between what the recurrence that
    was read makes and what the layer hands on. `repair` edits the rates of every layer, whatever
    it is worth, and counts tensors that differ from the original checkpoint; `undo` compares the
    bytes of all files. `monitor` counts readings of three training steps, without any failure.
    """
    model: Any = build(family)
    found: dict[str, Any] = {"family": family, "model_type": _model_type(model)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "model")
        with open(folder / "model" / "README.md", "w", encoding="utf-8") as beside:
            beside.write("A file beside the weights.\n")
        try:
            found |= _audited(folder / "model")
        except InputError as error:
            return {**found, "audit": str(error)}
        found |= _repaired(folder)
    return {**found, "monitor": _monitored(model)}


def _model_type(model: Any) -> str:
    return str(model.config.model_type)


def _tokens() -> torch.Tensor:
    return torch.randint(3, VOCAB - 10, (160,), generator=torch.Generator().manual_seed(5))


def _audited(folder: Path) -> dict[str, Any]:
    result = audit(
        load_any_model(folder).model, _tokens(), train_length=_TRAINED, length=2 * _LENGTH
    )
    proved = [own for own in result.measures if own.replay.is_proof]
    return {
        "kind": ", ".join(dict.fromkeys(own.layer.kind for own in result.measures)),
        "audit": f"{len(result.measures)} of {len(result.found)} layers",
        "replay": max(own.replay.difference for own in proved) if proved else None,
    }


def _repaired(folder: Path) -> dict[str, str]:
    loaded = load_any_model(folder / "model")
    try:
        result = repair(
            loaded.model,
            _tokens(),
            train_length=_TRAINED,
            target_length=_LENGTH,
            method="rate-scale",
            search="shared",
            stored_as=loaded.stored_types,
            locked=loaded.locked,
            force=True,
        )
        save_repaired(loaded, result, folder / "repaired")
    except InputError as error:
        return {"repair": str(error), "undo": ""}
    undo_repair(folder / "repaired", folder / "undone")
    changed = _changed_tensors(folder / "model", folder / "repaired")
    assert changed <= {loaded.names[name] for name in result.replaced}
    bytes_before, bytes_after = _hashes(folder / "model"), _hashes(folder / "undone")
    return {
        "repair": f"{len(changed)} of {_count(folder / 'model')} tensors differ",
        "undo": "to the bit" if bytes_before == bytes_after else "differs",
    }


def _monitored(model: Any) -> str:
    own = model.train()
    optimizer = torch.optim.Adam(own.parameters(), lr=1e-4)
    monitor = TrainingMonitor(own, every=1)
    tokens = _tokens()[: 2 * _LENGTH].view(2, _LENGTH)
    for step in range(_TRAINING_STEPS):
        monitor.after_step(step, tokens, optimizer)
        logits = LanguageModel(own).logits(tokens)[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if monitor.failures:
        return monitor.failures[0]
    layers = {reading.layer for reading in monitor.readings}
    return f"{len(monitor.readings)} readings of {len(layers)} layers"


def _changed_tensors(before: Path, after: Path) -> set[str]:
    """Names of tensors whose bytes, types or shapes differ; all else must be the same."""
    changed = set()
    for file in sorted(before.glob("*.safetensors")):
        with safe_open(file, "pt") as one, safe_open(after / file.name, "pt") as other:
            assert one.keys() == other.keys()
            assert one.metadata() == other.metadata()
            for name in one.keys():  # noqa: SIM118
                old, new = one.get_tensor(name), other.get_tensor(name)
                if old.dtype != new.dtype or not torch.equal(old, new):
                    changed.add(name)
    for file in before.iterdir():
        if file.suffix != ".safetensors":
            assert file.read_bytes() == (after / file.name).read_bytes()
    return changed


def _count(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            total += len(opened.keys())
    return total


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a CSV file."""
    file = io.StringIO()
    columns = ("family", "model_type", "kind", "audit", "replay", "repair", "undo", "monitor")
    writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for own in rows:
        replay = own.get("replay")
        writer.writerow({**own, "replay": "" if replay is None else f"{replay:.1e}"})
    return file.getvalue()
