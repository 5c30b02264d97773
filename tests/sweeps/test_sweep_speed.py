"""The sweep's benchmark: both sides are the same trainings, and the sums are what the rows say."""

import json

import pytest
import torch

from keelback.benchmarks import sweep_speed
from keelback.benchmarks.loop_baseline import LoopClassifier
from keelback.cli import main
from keelback.errors import JobError
from keelback.models import SelectiveSSMConfig


def test_the_plain_loop_is_the_same_model() -> None:
    model = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(3)).double()
    tokens = torch.randint(2, (5, 30), generator=torch.Generator().manual_seed(3))
    loop = LoopClassifier(dict(model.state_dict()))
    torch.testing.assert_close(loop(tokens), model(tokens), rtol=1e-11, atol=1e-12)


def test_the_benchmark_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                *("bench", "sweep", "--seq-len", "4,6", "--seeds", "2", "--epochs", "2"),
                *("--workers", "1", "--empty-runs", "30", "--json"),
            ]
        )
    assert exit_.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert result["lengths"] == [4, 6]
    for side in ("one_by_one", "plain_loop"):
        assert result[f"{side}_s"] == pytest.approx(sum(r[f"{side}_s"] for r in result["rows"]))
        ratio = result[f"{side}_s"] / result["sweep_s"]
        assert result[f"ratio_to_{side}"] == pytest.approx(ratio)
    for row in result["rows"]:
        assert row["plain_loop_s"] == pytest.approx(row["plain_loop_epoch_s"] * 2 * 2)
    assert result["overhead"]["runs"] == 30
    assert 0 < result["overhead"]["ms_per_run_resumed"] < result["overhead"]["ms_per_run"]


def test_another_training_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: LoopClassifier, tokens: torch.Tensor) -> torch.Tensor:
        return self.w.sum() * tokens.sum(1)

    monkeypatch.setattr(LoopClassifier, "forward", wrong)
    with pytest.raises(JobError, match="not the same training"):
        sweep_speed.sweep_speed([4], seeds=1, epochs=1, workers=1)
