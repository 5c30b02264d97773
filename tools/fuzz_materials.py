"""Small files of every format that commands read, and ways to damage them, for fuzzing.

python tools/fuzz_materials.py FOLDER
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keelback.cli.app import main

KEYS = (
    "B_u", "s_A", "B_A", "B_B", "M_B", "B_C", "M_C", "B_q", "M_q", "B_w", "M_w", "p_lo", "p_hi",
)  # fmt: skip

TEXT = "The keel keeps a hull upright, and a short text is enough here. " * 12


def make(folder: Path) -> None:
    """Write one valid file or folder of each format into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_texts(folder)
    _write_arrays(folder)
    _write_model(folder / "model")
    _write_reviews(folder / "reviews")
    settings = ["--set", "task_settings.n_train=32", "--set", "task_settings.n_test=32"]
    train = ["train", "--task", "majority", "--seq-len", "6", "--epochs", "1", *settings]
    for seed in ("1", "2"):
        _run([*train, "--seed", seed, "--out", str(folder / "sweep")])
    [checkpoint, *_] = sorted((folder / "sweep").glob("runs/*/model.safetensors"))
    shutil.copy(checkpoint, folder / "classifier.safetensors")
    shutil.copy(checkpoint.with_name("run.json"), folder / "run.json")
    _write_pickle(folder)


def _run(arguments: list[str]) -> None:
    try:
        main(["--quiet", *arguments])
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{arguments} ended with {ended.code}") from None


def _write_texts(folder: Path) -> None:
    (folder / "text.txt").write_text(TEXT)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]))
    (folder / "ids.json").write_text(json.dumps([i % 32 for i in range(300)]))
    (folder / "ids.txt").write_text(" ".join(str(i % 32) for i in range(300)))
    constants = {**dict.fromkeys(KEYS, 1.0), "s_A": -0.1, "p_lo": -1.0, "p_hi": 1.0}
    sizes = {"T": 100, "m": 1000, "d": 8, "N": 4}
    (folder / "constants.json").write_text(json.dumps({**constants, **sizes}))
    (folder / "plugin.py").write_text("import keelback\n")


def _write_arrays(folder: Path) -> None:
    np.save(folder / "ids.npy", np.arange(300) % 32)
    np.save(folder / "features.npy", np.eye(16, dtype=np.float32)[:3])


def _write_model(folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=256, hidden_size=16, num_hidden_layers=1, state_size=4
    )
    transformers.MambaForCausalLM(config).save_pretrained(folder)


def _write_reviews(folder: Path) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        rows = [f'"a b a {word}",{label}' for word, label in (("b", 0), ("a", 1)) for _ in range(4)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")


def _write_pickle(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "classifier.safetensors"), folder / "classifier.pth")


def damage(path: Path, how: random.Random) -> str:
    """Damage a file, or one of the files of a folder, in place; says how."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
        if not files or how.random() < 0.1:
            shutil.rmtree(path)
            path.write_bytes(b"not a folder")
            return "a file in place of the folder"
        file = how.choice(files)
        return f"{file.name}: {damage(file, how)}"
    ways: list[Callable[[Path, random.Random], str]] = [
        _cut, _flip, _empty, _noise, _remove, _folder, _huge_numbers
    ]  # fmt: skip
    if path.suffix == ".json":
        ways += [_other_value] * 6
    return how.choice(ways)(path, how)


def _cut(path: Path, how: random.Random) -> str:
    content = path.read_bytes()
    path.write_bytes(content[: how.randrange(len(content) + 1)])
    return "cut"


def _flip(path: Path, how: random.Random) -> str:
    content = bytearray(path.read_bytes())
    for _ in range(how.choice([1, 4, 64])):
        if content:
            # Most faults lie in heads, which say how to read the rest.
            place = how.randrange(min(len(content), how.choice([16, 400, len(content)])))
            content[place] = how.randrange(256)
    path.write_bytes(content)
    return "bytes changed"


def _empty(path: Path, how: random.Random) -> str:
    path.write_bytes(b"")
    return "emptied"


def _noise(path: Path, how: random.Random) -> str:
    path.write_bytes(how.randbytes(how.choice([1, 8, 200])))
    return "random bytes"


def _remove(path: Path, how: random.Random) -> str:
    path.unlink()
    return "removed"


def _folder(path: Path, how: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in place of the file"


def _huge_numbers(path: Path, how: random.Random) -> str:
    content = path.read_bytes()
    digit = how.choice(b"0123456789").to_bytes()
    number = how.choice([b"-1", b"1e999", b"99999999999999999999", b"NaN", b"\x1b[31m", b"\x00"])
    path.write_bytes(content.replace(digit, number, how.choice([1, 3])))
    return f"{digit!r} replaced by {number!r}"


STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, -1e308, "", "x", "\x1b[31mred\x1b[0m", [], [[]], {}, "../..",
    float("nan"), float("inf"), [1] * 50, {"a": {"b": 1}},
)  # fmt: skip


def _other_value(path: Path, how: random.Random) -> str:
    """Put something strange in place of a value of a JSON document."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return _noise(path, how)
    places = list(_places(document))
    if not places:
        return _noise(path, how)
    parent, key = how.choice(places)
    if how.random() < 0.15 and isinstance(parent, dict):
        del parent[key]
        said = f"without {key!r}"
    else:
        parent[key] = _nested() if how.random() < 0.05 else how.choice(STRANGE)
        said = f"{key!r} is {str(parent[key])[:30]}"
    path.write_text(json.dumps(document))
    return said


def _nested() -> list[Any]:
    inner: list[Any] = []
    for _ in range(400):
        inner = [inner]
    return inner


def _places(document: Any) -> Any:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    if isinstance(document, dict | list):
        for key, value in list(items):
            yield document, key
            if isinstance(value, dict | list):
                yield from _places(value)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
