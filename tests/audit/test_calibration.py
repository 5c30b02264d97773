"""The calibration of the verdicts counts what was said against what is true."""

import json
from typing import Any

import pytest
import torch

from keelback.audit import audit
from keelback.benchmarks import calibration as bench
from keelback.benchmarks.calibration_models import (
    CLAIMS,
    Case,
    _counting,
    _free_rates,
    _lookalikes,
    _overflows,
    _rise,
)
from keelback.cli import main

SHORT = [*_free_rates(0), *_lookalikes(0)]


def test_what_is_known_without_training_is_said_right() -> None:
    found = bench.calibration(of=SHORT)
    assert found["models"] == len(SHORT) >= 26
    by_claim = {counted["claim"]: counted for counted in found["claims"]}
    assert list(by_claim) == list(CLAIMS)
    for claim in ("unstable", "not read in full"):
        assert by_claim[claim]["hits"] == by_claim[claim]["true"] > 0
    for counted in by_claim.values():
        assert counted["false_alarms"] == 0, counted
    assert json.loads(json.dumps(found)) == found


def test_step_sizes_that_are_known_to_leave_the_range() -> None:
    """Also where the loss holds all the same, so that it is worth a note alone."""
    found = bench.calibration(of=[case for case in _counting(10) if "seed 11" in case.name])
    (counted,) = [c for c in found["claims"] if c["claim"] == "step sizes leave the range"]
    assert (counted["true"], counted["hits"]) == (2, 2)
    assert (counted["false"], counted["false_alarms"]) == (1, 0)


def one(truth: bool, said: bool, name: str) -> dict[str, Any]:
    return {"name": name, "truth": {"unstable": truth}, "said": {"unstable": said}}


def test_counts() -> None:
    audited = [
        *(one(True, True, f"hit {i}") for i in range(3)),
        one(True, False, "missed"),
        one(False, True, "made up"),
        *(one(False, False, f"quiet {i}") for i in range(4)),
        {"name": "unknown", "truth": {}, "said": {"unstable": True}},
    ]
    counted = bench.counts("unstable", audited)
    assert (counted["true"], counted["hits"], counted["missed"]) == (4, 3, ["missed"])
    assert (counted["false"], counted["false_alarms"], counted["alarmed"]) == (5, 1, ["made up"])
    rate = counted["hit_rate"]
    assert rate["share"] == 0.75
    assert rate["low"] == pytest.approx(0.3006, abs=1e-3)  # Wilson (1927), 3 of 4
    assert rate["high"] == pytest.approx(0.9544, abs=1e-3)
    assert bench.counts("does not hold", audited)["hit_rate"] is None
    table = bench.summary_csv({"claims": [counted, bench.counts("does not hold", audited)]})
    assert "unstable,4,3,75% (30% to 95%),5,1,20% (4% to 62%)" in table


def test_truths_are_measured_without_the_audit(tiny_model: Any) -> None:
    """The rise of the loss is that of the audit on the same text; an overflow is one in float16."""
    from test_repair import CHECKPOINT

    from keelback.audit import load_any_model

    model = load_any_model(CHECKPOINT).model
    from keelback.audit import bundled_text

    tokens = torch.tensor(list(bundled_text().encode()))[:4096]
    rise = _rise(model, tokens.view(4, 1024))
    result = audit(model, tokens, train_length=64, length=1024, precision=False)
    assert result.degradation is not None
    assert rise == pytest.approx(result.degradation.relative_excess, rel=0.05)
    assert not _overflows(model, tokens)
    with torch.no_grad():
        model.backbone.norm_f.weight *= 1e6
    assert _overflows(model, tokens)


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def few(report: Any, first_seed: int) -> list[Case]:
        return SHORT[:3]

    monkeypatch.setattr(bench, "cases", few)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "calibration", "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert "unstable: said of 3 of the 3 models" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["models"] == 3
    assert {"command", "commit"} <= stored["provenance"].keys()
    assert (tmp_path / "out" / "calibration.csv").read_text().startswith("the audit says,true of")
