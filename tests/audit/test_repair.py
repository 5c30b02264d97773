"""Repair: a model that forgets too slowly is mended, a sound one left alone, and all comes back."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM

from keelback.audit import METHODS, audit, bundled_text, load_any_model, repair
from keelback.audit.checkpoints import REPLACED_FILE, REPORT_FILE
from keelback.audit.repairs import HeldOutLoss
from keelback.audit.repairs._edits import DecayFloor, EditKind
from keelback.audit.repairs._search import Found, coordinate_search, gradient_search, shared_search
from keelback.cli import main
from keelback.errors import InputError
from keelback.models import SelectiveSSM, SelectiveSSMConfig

CLASSES, TRAINED, TARGET = 16, 64, 512
TEXT = torch.arange(4 * TARGET) % CLASSES


class Hoarding(nn.Module):
    """Predicts a cycle, less and less surely as two layers' states pass what 150 tokens leave."""

    def __init__(self, abscissa: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SelectiveSSM(1, 1) for _ in range(2))
        with torch.no_grad():
            for layer in self.layers:
                layer.state_matrix.A.fill_(abscissa)
                layer.W_B.fill_(1.0)
                layer.W_C.fill_(1.0)
                layer.q.zero_()
                layer.p.zero_()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(*tokens.shape, 1)
        excess = sum((layer(ones) / 100 - 1).clamp_min(0.0) for layer in self.layers)
        following = F.one_hot((tokens + 1) % CLASSES, CLASSES).float()
        return following * 5.0 / (1 + excess)


def test_rates_that_two_layers_share_are_left_as_they_are() -> None:
    """An edit for one would be one of the other, and undo would put back half an edit."""
    model = Hoarding(0.0)
    first, second = (layer.state_matrix for layer in model.layers)
    second.A = first.A
    with pytest.raises(InputError, match=r"layers\.0\.state_matrix\.A is shared by several"):
        repair(model, TEXT, target_length=TARGET, train_length=TRAINED, force=True)
    assert torch.equal(first.A, torch.zeros_like(first.A))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "step-scale"])
@pytest.mark.parametrize("search", ["shared", "coordinate", "gradient"])
def test_what_hoards_is_mended(method: str, search: str) -> None:
    abscissa = -0.005 if method == "rate-scale" else 0.0
    model = Hoarding(abscissa)
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = repair(
        model, TEXT, target_length=TARGET, train_length=TRAINED, method=method, search=search
    )
    assert result.method == ("decay-floor" if method == "auto" else method)
    assert result.before.at_target > 2 * result.before.restarted
    assert result.after.at_target < 1.05 * result.before.restarted
    assert abs(result.after.within - result.before.within) < 0.01
    assert "from" in result.summary
    assert result.method in result.summary
    again = audit(model, TEXT[:TARGET], train_length=TRAINED, precision=False)
    assert again.degradation is not None
    assert not again.degradation.degrades
    assert again.measures[0].spectral_abscissa < 0
    result.undo(model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_model_that_only_remembers_is_left_alone() -> None:
    model = Hoarding(-10.0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = repair(model, TEXT, target_length=TARGET, train_length=TRAINED)
    assert result.method == "none"
    assert result.replaced == {}
    assert "unchanged" in result.summary
    for goal, words in ((1.0, "Nothing helped"), (2.0, "There is nothing to mend")):
        loss = HeldOutLoss(within=1.0, at_target=2.0, restarted=goal)
        assert replace(result, before=loss, after=loss).summary.startswith(words)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_numbers_are_of_the_held_out_half() -> None:
    """The second half of the text decides; here it is of another, harder, order of tokens."""
    model = Hoarding(0.0)
    harder = torch.cat([TEXT[: 2 * TARGET], (7 * TEXT[2 * TARGET :]) % CLASSES])
    easy = repair(model, TEXT, target_length=TARGET, train_length=TRAINED)
    easy.undo(model)
    hard = repair(model, harder, target_length=TARGET, train_length=TRAINED)
    assert hard.before.restarted > easy.before.restarted + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "prayer"}, "method is 'prayer'; it must be one of auto, decay-floor"),
        ({"search": "far"}, "search is 'far'"),
        ({"target_length": TRAINED}, "nothing to repair unless the target is longer"),
        ({"target_length": 2 * TARGET + 1}, "needs at least 2050"),
        ({"train_length": -1}, "at least 1"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"target_length": TARGET, "train_length": TRAINED} | change
    with pytest.raises(InputError, match=words):
        repair(Hoarding(0.0), TEXT, **arguments)


def test_models_that_cannot_be_repaired(tiny_model: Callable[[str], Any]) -> None:
    classifier = SelectiveSSMConfig(vocab_size=CLASSES).build()
    with pytest.raises(InputError, match="does not predict the next token"):
        repair(classifier, TEXT, target_length=TARGET, train_length=TRAINED)
    with pytest.raises(InputError, match="cannot be edited by step-scale"):
        repair(
            tiny_model("qwen3-next"),
            torch.arange(3, 43).repeat(4),
            target_length=40,
            train_length=20,
            method="step-scale",
        )


class Bowl(EditKind):
    """No edit at all; the searches are tested on functions of the values."""

    name = "bowl"

    def edit(self, layer: Any, value: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def shared_values(self, train_length: int, target_length: int) -> list[list[float]]:
        return [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [-1.0, -2.0]]


CENTRE = torch.tensor([1.5, 3.0, 2.25])


def bowl(kind: EditKind, values: torch.Tensor) -> float:
    return float((values - CENTRE).square().sum())


def test_the_shared_search_stops_after_two_rises() -> None:
    tried: list[float] = []

    def score(kind: EditKind, values: torch.Tensor) -> float:
        tried.append(float(values[0]))
        return bowl(kind, values)

    found = shared_search(Bowl(), 3, 1, 1, score)
    assert found.values.tolist() == [2.0, 2.0, 2.0]
    assert tried == [0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0]


def test_layerwise_searches_come_closer() -> None:
    start = Found(Bowl(), torch.full((3,), 2.0), bowl(Bowl(), torch.full((3,), 2.0)))
    found = coordinate_search(start, bowl, 40)
    assert found.score <= 0.02
    assert coordinate_search(start, bowl, 0) is start

    def differentiable(kind: EditKind, values: torch.Tensor, step: int) -> torch.Tensor:
        return (values - CENTRE).square().sum()

    assert gradient_search(start, bowl, differentiable, 30).score < 0.05


def test_searches_survive_overflow() -> None:
    start = Found(Bowl(), torch.zeros(2), 1.0)
    assert coordinate_search(start, lambda *_: float("inf"), 10) is start
    nothing = torch.tensor(float("nan"), requires_grad=True)
    assert gradient_search(start, lambda *_: 0.0, lambda *_: nothing, 10) is start
    assert DecayFloor().shared_values(64, 512)[0] == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]


CHECKPOINT = Path(__file__).parent / "checkpoints" / "byte-mamba2"
"""Trained on windows of 64 bytes by `keelback byte-lm --preset tiny`; stored in bfloat16."""


@pytest.fixture
def short_sighted(tmp_path: Path) -> Path:
    """A copy of the checkpoint with a tokenizer's file beside it, to be copied along."""
    folder = tmp_path / "short-sighted"
    shutil.copytree(CHECKPOINT, folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["repair", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_writes_what_transformers_reads_and_takes_it_back(
    short_sighted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repaired, undone = tmp_path / "repaired", tmp_path / "undone"
    options = ("--tokenizer", "bytes", "--train-length", 64, "--target-length", 1024)
    assert run(short_sighted, "--out", repaired, *options, "--search", "shared", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    reference = report["before"]["restarted"]
    assert report["before"]["at_target"] > 1.2 * reference
    assert report["after"]["at_target"] < 1.05 * reference
    assert report["after"]["within"] < 1.01 * report["before"]["within"]
    assert json.loads((repaired / REPORT_FILE).read_text())["summary"] == report["summary"]
    assert (repaired / REPLACED_FILE).is_file()
    assert (repaired / "tokenizer_config.json").is_file()

    plain = AutoModelForCausalLM.from_pretrained(repaired, dtype="auto")
    original = AutoModelForCausalLM.from_pretrained(short_sighted, dtype="auto")
    assert next(plain.parameters()).dtype == torch.bfloat16
    changed = {
        name
        for (name, new), old in zip(plain.named_parameters(), original.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert changed == set(report["parameters"])

    assert run(repaired, "--undo", "--out", undone) == 0
    back = AutoModelForCausalLM.from_pretrained(undone, dtype="auto")
    for one, other in zip(back.parameters(), original.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not (undone / REPORT_FILE).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--target-length is missing"),
        (("--target-length", 20), "nothing to repair"),
        (("--target-length", 10**6), "needs at least 2000000"),
        (("--target-length", 128, "--method", "prayer"), "it must be one of"),
        (("--undo",), "was not repaired by keelback"),
    ],
)
def test_wrong_input_is_one_line(
    short_sighted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[Any, ...],
    words: str,
) -> None:
    fixed = () if "--undo" in options else ("--tokenizer", "bytes", "--train-length", 64)
    code = run(short_sighted, "--out", tmp_path / "out", *fixed, *options)
    captured = capsys.readouterr()
    assert code == 2
    assert words in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_what_holds_already_is_not_written(
    short_sighted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained length and target so close that there is nothing to gain for a clip."""
    options = ("--tokenizer", "bytes", "--train-length", 64, "--target-length", 65)
    assert run(short_sighted, "--out", tmp_path / "out", *options, "--method", "clip") == 1
    assert "Nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_audit_sees_what_the_repair_mends() -> None:
    loaded = load_any_model(CHECKPOINT)
    tokens = torch.tensor(list(bundled_text().encode()))[:4096]
    before = audit(loaded.model, tokens, train_length=64, length=1024, precision=False)
    assert before.degradation is not None
    assert before.degradation.degrades
    assert before.degradation.relative_excess > 0.2
    assert all(float(own.state_growth.median()) > 1.5 for own in before.measures)
    assert all(own.beyond_train_length > 0.5 for own in before.measures)
    repair(loaded.model, tokens, target_length=1024, train_length=64, search="shared")
    after = audit(loaded.model, tokens, train_length=64, length=1024, precision=False)
    assert after.degradation is not None
    assert after.degradation.relative_excess < 0.02
    assert all(own.beyond_train_length < 0.5 for own in after.measures)


def test_nothing_is_overwritten(short_sighted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(short_sighted, "--out", short_sighted, "--target-length", 64) == 2
    assert "exists already" in capsys.readouterr().err
    load_any_model(short_sighted)
