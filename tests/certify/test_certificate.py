"""Certificates as files: accepted as they are, refused once anything in them is changed."""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import keelback.models
from keelback.certify import certificate_of, certify_model
from keelback.cli.app import main
from keelback.data import get_task
from keelback.models import SelectiveSSMConfig, save_model
from keelback.training import Recipe

pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
import keelback_check

BEYOND_THE_CHECKER = ("checkpoint", "data.task", "data.settings", "data.fingerprint", "data.sha256",
                      "code", "statements.*.evidence.wrong.*",
                      "statements.*.evidence.prior_sigma",
                      "statements.*.evidence.prior_examples")  # fmt: skip
"""What no recomputation can see: only the digest, the file's hash or the data speak of it."""


CERTIFY = ["certify", "--task", "majority", "--seq-len", "20", "--set", "n_train=150",
           "--set", "n_test=60", "--no-pac-bayes"]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificate") / "model.safetensors"
    config = SelectiveSSMConfig.model_validate({"vocab_size": 2, "spectral_abscissa": -0.2})
    save_model(config.build(torch.Generator().manual_seed(3)), path)
    return path


@pytest.fixture(scope="module", params=[0, 4], ids=["test set", "PAC-Bayes"])
def certificate(request: pytest.FixtureRequest, checkpoint: Path) -> dict[str, Any]:
    from keelback.models import load_model

    task = get_task("majority", seq_len=20, n_train=150, n_test=60)
    found = certify_model(
        load_model(checkpoint), task, attempt=2, prior_recipe=Recipe(epochs=1),
        steps=request.param, draws=20,
    )  # fmt: skip
    made = certificate_of(found, checkpoint=checkpoint, task=task, made_by={"commit": "x"}, seed=0)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def test_a_certificate_is_accepted_and_says_what_it_counts(certificate: dict[str, Any]) -> None:
    keelback_check.check(certificate)
    kinds = [statement["kind"] for statement in certificate["statements"]]
    assert kinds == ["held out", "constant", "held out", "constant", "gibbs", "constant"]
    assert certificate["joint_confidence"] == "7/10"
    held = certificate["statements"][0]
    assert held["delta_after_attempts"] == "1/120"
    assert len(held["evidence"]["wrong"]) == held["evidence"]["errors"]


Place = tuple[Any, ...]


def leaves(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every leaf; of long lists of numbers the first two, the others being like them."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, int) and isinstance(key, int) and key > 1:
                continue
            yield from leaves(value, (*place, key))
    else:
        yield place, node


def changes(value: Any) -> list[Any]:
    """Other values that could stand there; the last is of another type."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, value - 1, -1, 10**9, float(value) + 0.5, str(value)]
    if isinstance(value, float):
        moved = [value * 0.999, value * 1.001, value / 2] if value else [1e-3]
        return [*moved, -value - 1.0, str(value)]
    if isinstance(value, str):
        return [value + " ", value[:-1], "0", None]
    return [1, "none"]


def changed(certificate: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    other = copy.deepcopy(certificate)
    node: Any = other
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return other


def refused(certificate: dict[str, Any]) -> bool:
    try:
        keelback_check.check(certificate)
    except Exception:
        return True
    return False


def beyond(place: Place) -> bool:
    path = ".".join("*" if isinstance(key, int) else str(key) for key in place)
    return any(path == known or path.startswith(f"{known}.") for known in BEYOND_THE_CHECKER)


def test_every_change_is_refused_by_the_digest(certificate: dict[str, Any]) -> None:
    tried = 0
    for place, value in leaves(certificate):
        for other in changes(value):
            assert refused(changed(certificate, place, other)), (place, value, other)
            tried += 1
    assert tried >= 200


def test_every_change_is_refused_with_a_new_digest(certificate: dict[str, Any]) -> None:
    """But for what cannot be recomputed, which stands in one list."""
    tried = 0
    for place, value in leaves(certificate):
        if place == ("digest",) or beyond(place):
            continue
        for other in changes(value):
            mutated = changed(certificate, place, other)
            if json.dumps(mutated) == json.dumps(certificate):
                continue
            mutated["digest"] = keelback_check.digest(mutated)
            assert refused(mutated), (place, value, other)
            tried += 1
    assert tried >= 200


def about_every_string(certificate: dict[str, Any]) -> None:
    statement = certificate["statements"][0]
    statement["about"] = "every string there is"
    statement["words"], statement["symbols"] = keelback_check.words(statement)


STRUCTURE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a statement less": lambda c: c["statements"].pop(),
    "a statement twice": lambda c: c["statements"].append(c["statements"][0]),
    "no statement": lambda c: c["statements"].clear(),
    "a draw less": lambda c: c["statements"][4]["evidence"]["draws"].pop(),
    "a better draw": lambda c: c["statements"][4]["evidence"]["draws"].append(0),
    "an error less": lambda c: c["statements"][0]["evidence"]["wrong"].pop(),
    "an error twice": lambda c: c["statements"][0]["evidence"]["wrong"].append(
        c["statements"][0]["evidence"]["wrong"][-1]
    ),
    "no notice": lambda c: c["notices"].clear(),
    "another first line": lambda c: c["notices"].insert(0, "All is well."),
    "copies forgotten": lambda c: c["data"]["overlap"].pop("test examples"),
    "about every string": about_every_string,
    "loaded data called independent draws": lambda c: c["data"].update(fingerprint="files:1"),
    "examples without a hash": lambda c: c["data"]["sha256"].popitem(),
    "a statement on other examples": lambda c: c["statements"][0].update(examples="fresh examples"),
    "another key": lambda c: c.update(trust="me"),
    "no checkpoint": lambda c: c.update(checkpoint={"name": "model.safetensors"}),
    "a hash that is none": lambda c: c["checkpoint"].update(sha256="0"),
    "kinds exchanged": lambda c: c["statements"][1].update(kind="held out"),
    "the smaller bound of another": lambda c: c["statements"][2].update(
        bound=c["statements"][0]["bound"]
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_changes_of_structure_are_refused(certificate: dict[str, Any], name: str) -> None:
    other = copy.deepcopy(certificate)
    STRUCTURE[name](other)
    other["digest"] = keelback_check.digest(other)
    assert refused(other)


def test_the_checker_knows_neither_torch_nor_keelback(
    certificate: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(certificate))
    program = (
        "import sys, keelback_check\n"
        f"code = keelback_check.main([{str(path)!r}, '--file', {str(checkpoint)!r}])\n"
        "known = {name.split('.')[0] for name in sys.modules}\n"
        "assert not known & {'keelback', 'torch', 'numpy', 'scipy', 'mpmath'}, known\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ACCEPTED: each of 6 statements on its own" in done.stdout


def test_the_command_writes_what_the_checker_accepts(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "certificate.json"
    arguments = [*CERTIFY, str(checkpoint), "--certificate", str(path)]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (0, None)
    written = json.loads(path.read_text())
    assert written["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert written["code"]["seed"] == 0
    capsys.readouterr()
    assert keelback_check.main([str(path), "--file", str(checkpoint)]) == 0
    assert "always answering" in capsys.readouterr().out
    assert keelback_check.main([str(path), "--file", str(path)]) == 1
    assert "is another checkpoint" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_a_folder_is_certified_by_the_file_in_it(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "certificate.json"
    with pytest.raises(SystemExit) as stopped:
        main([*CERTIFY, str(checkpoint.parent), "--certificate", str(path)])
    assert stopped.value.code in (0, None)
    assert keelback_check.main([str(path), "--file", str(checkpoint)]) == 0


def test_a_checkpoint_that_changes_meanwhile_is_not_certified(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of a training that goes on: the certificate would name a model that nobody counted."""
    own = tmp_path / "model.safetensors"
    shutil.copy(checkpoint, own)
    load = keelback.models.load_model

    def then_changed(path: Path) -> Any:
        model = load(path)
        with torch.no_grad():
            changed = copy.deepcopy(model)
            changed.get_parameter("head.weight").mul_(2)
        save_model(changed, own)
        return model

    monkeypatch.setattr("keelback.models.load_model", then_changed)
    path = tmp_path / "certificate.json"
    with pytest.raises(SystemExit) as stopped:
        main([*CERTIFY, str(own), "--certificate", str(path)])
    assert stopped.value.code == 1
    said = "model.safetensors was changed while it was certified; no certificate is written"
    assert said in capsys.readouterr().err
    assert not path.exists()


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert keelback_check.main(["--help"]) == 0
    assert "keelback-check CERTIFICATE.json" in capsys.readouterr().out


def test_unreadable_files_and_wrong_arguments_end_with_two(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "certificate.json"
    assert keelback_check.main([str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}: No such file or directory\n"
    path.write_text("{")
    assert keelback_check.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path} is no JSON: ")
    assert keelback_check.main([]) == 2
    path.write_text("[" * 100_000)
    assert keelback_check.main([str(path)]) == 2
    path.write_text("[]")
    capsys.readouterr()
    assert keelback_check.main([str(path)]) == 1
    assert capsys.readouterr().out.startswith("REFUSED: ")


def test_the_checkers_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert keelback_check.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: keelback-check")
    assert "shares no code with keelback" in out


def test_without_its_library_it_names_it(tmp_path: Path) -> None:
    program = "import sys; sys.modules['flint'] = None; import keelback_check as k; k._exit()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "any.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: needs python-flint: pip install 'keelback[certify]'\n"
