"""The adapter on the page about audits reads a layer of its kind."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keelback.audit.adapters import REGISTERED

DOCS = Path(__file__).resolve().parents[2] / "docs/guides"


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def run(code: str, **names: Any) -> dict[str, Any]:
    names = dict(names)
    exec(compile(code, "document", "exec"), names)
    return names


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_step, self.to_keys, self.to_queries = (nn.Linear(6, n) for n in (6, 2, 2))
        self.log_rates = nn.Parameter(torch.zeros(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step, A = F.softplus(self.to_step(x)), -self.log_rates.exp()
        keys, queries = self.to_keys(x).unsqueeze(2), self.to_queries(x).unsqueeze(2)
        state, outputs = torch.zeros(len(x), 6, 2), []
        for t in range(x.shape[1]):
            written = (step[:, t] * x[:, t]).unsqueeze(-1) * keys[:, t]
            state = torch.exp(step[:, t].unsqueeze(-1) * A) * state + written
            outputs.append((state * queries[:, t]).sum(-1))
        return torch.stack(outputs, dim=1)


def test_an_adapter_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from keelback.audit import audit

    monkeypatch.setattr(REGISTERED, "_parts", {})
    run(blocks("audit.md")[1])
    model = nn.Sequential(nn.Embedding(9, 6), Mine())
    (layer,) = audit(model, torch.arange(100) % 9, train_length=50).to_json()["layers"]
    assert layer["kind"] == "mine"
    assert layer["spectral_abscissa"] == -1
    assert layer["replay"]["relative_difference"] < 1e-5
