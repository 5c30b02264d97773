"""Models that others trained and published as packages, downloaded; skipped without a registry."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from keelback.audit import audit, bundled_text
from keelback.audit.adapters import REGISTERED, known_adapters

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages are unpacked."""
    folder = tmp_path_factory.mktemp("packages")
    wanted = ["typeseg==0.2.7", "opensr-mamba==0.0.1", "einops==0.8.1"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-input"]
    command += ["--retries", "1", "--timeout", "20", "--target", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no registry: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of `tools/`."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


def test_typeseg(packages: Path, tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tool("audit_typeseg")
    model = script.load(packages)
    tokens = torch.tensor(list(bundled_text().encode()[:192]))
    assert script.difference_to_theirs(model, packages, tokens) < 1e-4
    unread = audit(model, tokens, train_length=192)
    assert unread.measures == []
    assert unread.verdict.startswith("No state-space layer of this model could be read")
    own = [script.BothWaysAdapter(), *known_adapters()]
    monkeypatch.setattr("keelback.audit._layers.known_adapters", lambda: own)
    result = audit(model, tokens, train_length=192)
    assert len(result.measures) == 12
    assert max(own.replay.difference for own in result.measures) < 1e-5
    assert not [missed for missed in result.not_audited if missed.what.startswith("layers")]
    assert "BothWaysAdapter" not in REGISTERED.registered()


@pytest.mark.parametrize("name", ["srmodel", "fusionmodel01", "fusionmodel02"])
def test_opensr_mamba(packages: Path, tool: Any, name: str) -> None:
    script = tool("audit_opensr_mamba")
    model = script.load(packages, name, 12)
    image = script.landscape(script.MODELS[name]["in_chans"], 12)
    result = audit(model, {"x": image, "save_attention_maps": True}, train_length=144)
    assert len(result.measures) == 32
    assert all(own.replay.is_proof for own in result.measures)
    assert max(own.replay.difference for own in result.measures) < 1e-3
    assert "mamba_ssm" not in sys.modules
