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


def test_a_part_of_the_lengths_is_not_compared_with_the_whole_sweep() -> None:
    planned = sweep_speed.benchmark([4, 6], seeds=2, epochs=1, workers=1)
    assert planned.names == ["runs that do nothing", "the sweep", "length 4", "length 6"]
    row = {"one_by_one_s": 3.0, "plain_loop_s": 5.0}
    found = {"the sweep": {"sweep_s": 2.0, "load_average": 0.5}, "length 4": row}
    assert planned.result(found) == {"sweep_s": 2.0, "rows": [row], "load_average": 0.5}
    whole = planned.result(found | {"length 6": row})
    assert whole["ratio_to_one_by_one"] == 3.0
    assert [one["times as long"] for one in whole["summary"]] == [1.0, 3.0, 5.0]


def test_another_training_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: LoopClassifier, tokens: torch.Tensor) -> torch.Tensor:
        return self.w.sum() * tokens.sum(1)

    monkeypatch.setattr(LoopClassifier, "forward", wrong)
    with pytest.raises(JobError, match="not the same training"):
        sweep_speed.benchmark([4], seeds=1, epochs=1, workers=1, empty_runs=1).run()
