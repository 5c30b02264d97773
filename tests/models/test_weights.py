"""Weights on disk: round trips, the reference state dicts, and files that must be refused."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from keelback.data import get_task
from keelback.errors import InputError
from keelback.models import (
    SelectiveClassifier,
    SelectiveSSMConfig,
    load_model,
    save_model,
    save_weights,
)
from keelback.training import accuracy


def make_model(**settings: object) -> SelectiveClassifier:
    fields = {"vocab_size": 5, "spectral_abscissa": -0.2, **settings}
    return SelectiveSSMConfig.model_validate(fields).build(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("parametrisation", ["free", "stable"])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_saved_model_comes_back_bit_for_bit(
    tmp_path: Path, parametrisation: str, n_classes: int
) -> None:
    model = make_model(parametrisation=parametrisation, n_classes=n_classes)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    tokens = torch.randint(5, (3, 7))
    assert torch.equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"d_model": ' + "9" * 5000 + "}"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"keelback": text})
    with pytest.raises(InputError, match=r"the configuration inside .* is not JSON"):
        load_model(path)


@pytest.mark.shared
@pytest.mark.parametrize(("split", "expected"), [("train", 0.967), ("test", 0.883)])
def test_the_reference_majority_checkpoint_scores_what_was_published(
    shared: Path, split: str, expected: float
) -> None:
    model = load_model(shared / "reference/checkpoints/majority_T100_seed1.pth")
    task = get_task("majority", seq_len=100, data_seed=1)
    assert accuracy(model, task.split(split)) == expected  # type: ignore[arg-type]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["majority_T100_seed1", "listops_T100_seed1", "imdb_T500_seed1"])
def test_reference_checkpoints_convert(shared: Path, tmp_path: Path, name: str) -> None:
    model = load_model(shared / f"reference/checkpoints/{name}.pth")
    assert isinstance(model, SelectiveClassifier)
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    tokens = torch.randint(model.config.vocab_size, (2, 30))
    assert torch.equal(again(tokens), model(tokens))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def reference_state(n_classes: int = 2) -> dict[str, torch.Tensor]:
    state = {f"SSM.ssm.{name}": torch.zeros(4, 3) for name in ("A",)}
    state |= {f"SSM.ssm.{name}": torch.zeros(3, 4) for name in ("W_B", "W_C")}
    state |= {"SSM.ssm.q_delta": torch.zeros(4), "SSM.ssm.p_delta": torch.zeros(1)}
    return state | {"SSM.w": torch.zeros(4), "embedding.weight": torch.zeros(9, 4)}


def test_a_reference_state_dict_is_read_by_shape(tmp_path: Path) -> None:
    torch.save(reference_state(), tmp_path / "m.pth")
    model = load_model(tmp_path / "m.pth")
    assert (model.config.vocab_size, model.config.d_model, model.config.d_state) == (9, 4, 3)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"embedding.weight": Evil()}))
    else:
        torch.save({"embedding.weight": Evil()}, path)
    with pytest.raises(InputError, match="code"):
        load_model(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_state_dict_is_refused(tmp_path: Path, share: float) -> None:
    buffer = io.BytesIO()
    torch.save(reference_state(), buffer)
    whole = buffer.getvalue()
    (tmp_path / "cut.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cut\.pth"):
        load_model(tmp_path / "cut.pth")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.safetensors"
    save_model(make_model(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="safetensors"):
        load_model(path)


def test_another_architecture_is_refused_with_the_tensor_named(tmp_path: Path) -> None:
    state = reference_state()
    state["SSM.ssm.W_B"] = torch.zeros(5, 4)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"W_B has shape \(5, 4\), expected \(3, 4\)"):
        load_model(tmp_path / "m.pth")


@pytest.mark.parametrize("content", [{"weight": torch.zeros(3)}, torch.zeros(2), {"a": 1}, {}])
def test_other_state_dicts_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError):
        load_model(tmp_path / "m.pth")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint at .*absent\.pth"):
        load_model(tmp_path / "absent.pth")
    run = tmp_path / "out" / "runs" / "abc"
    run.mkdir(parents=True)
    (run / "model.safetensors").touch()
    with pytest.raises(InputError, match=rf"no checkpoint at .*; name a run, e.g. {run}"):
        load_model(tmp_path / "out")


def bad_values() -> dict[str, torch.Tensor]:
    """By what is said of it: a tensor for W_B, (3, 4), that must not be scored."""
    sound = torch.zeros(3, 4)
    one, infinite = sound.clone(), sound.clone()
    one[1, 1], infinite[1, 2] = 1.0, torch.inf
    return {
        "NaN or infinity, 12 of 12": torch.full((3, 4), float("nan")),
        "NaN or infinity, 1 of 12": infinite,
        "complex64": sound * 1j,
        "float64, which the model's float32 cannot": sound.double(),
        "int64": sound.long(),
        "bool": sound.bool(),
        "sparse": one.to_sparse(),
        "no values": sound.to("meta"),
    }


SAID = list(bad_values())


@pytest.mark.parametrize("said", SAID)
def test_a_state_dict_that_is_no_finite_real_numbers_is_refused(tmp_path: Path, said: str) -> None:
    torch.save(reference_state() | {"SSM.ssm.W_B": bad_values()[said]}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"m\.pth: tensor ssm.W_B .*" + said):
        load_model(tmp_path / "m.pth")


@pytest.mark.parametrize("said", SAID[:-2])
def test_a_safetensors_file_that_is_no_finite_real_numbers_is_refused(
    tmp_path: Path, said: str
) -> None:
    model = make_model(d_model=4, d_state=3)
    weights = dict(model.state_dict()) | {"ssm.W_B": bad_values()[said]}
    save_weights(weights, model.config, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: tensor ssm.W_B .*" + said):
        load_model(tmp_path)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_weights_of_a_narrower_type_are_read_exactly(tmp_path: Path, narrow: torch.dtype) -> None:
    model = make_model()
    weights = {name: x.to(narrow) for name, x in model.state_dict().items()}
    save_weights(weights, model.config, tmp_path / "model.safetensors")
    for name, tensor in load_model(tmp_path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, weights[name].float())


@pytest.mark.parametrize("fields", ["[1]", "3", "null", '"selective-ssm"'])
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, fields: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", {"keelback": fields})
    with pytest.raises(InputError, match="is not a JSON object"):
        load_model(tmp_path)


def test_a_checkpoint_whose_pickle_ends_early_is_named(tmp_path: Path) -> None:
    """PyTorch's reader then takes from an empty list; every such error names the file."""
    torch.save({"A": torch.ones(2)}, tmp_path / "whole.pth")
    damaged = tmp_path / "damaged.pth"
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(damaged, "w") as copy:
        for name in whole.namelist():
            copy.writestr(name, b"\x80\x02." if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(InputError, match=r"damaged\.pth cannot be read"):
        load_model(damaged)
