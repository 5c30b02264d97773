"""Adapters from outside: an audit reads by them, and what they give is checked."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plugin_files import ADAPTER

from keelback import load_plugin, repair, save_model
from keelback.audit import find_layers
from keelback.audit.adapters import ADAPTERS, known_adapters
from keelback.errors import PluginError
from keelback.models import model_config

Cli = Callable[..., tuple[int, str, str]]

AUDIT = ("audit", "m.safetensors", "--plugin", "leaky.py", "--tokens", "tokens.txt",
         "--train-length", "20", "--json")  # fmt: skip
READ = "        return SelectiveRecurrence(u, delta, self.state_matrix(module), ones, ones)\n"
STATE = "        return -module.log_rate.detach().exp().unsqueeze(1)\n"


def leaky(old: str = "", new: str = "") -> None:
    assert old in ADAPTER
    Path("leaky.py").write_text(ADAPTER.replace(old, new, 1) if old else ADAPTER)


@pytest.fixture
def checkpoint() -> Path:
    """A checkpoint of the plugin's model, and tokens to audit it on."""
    leaky()
    plugin = load_plugin("leaky.py")
    model = model_config({"kind": "leaky", "vocab_size": 3}).build(torch.Generator().manual_seed(2))
    save_model(model, Path("m.safetensors"))
    Path("tokens.txt").write_text(" ".join(str(i % 3) for i in range(40)))
    assert plugin.path.name == "leaky.py"
    return Path("m.safetensors")


def test_the_audit_reads_what_the_adapter_says(cli: Cli, checkpoint: Path) -> None:
    code, out, _ = cli(*AUDIT)
    assert code == 0
    [layer] = json.loads(out)["layers"]
    model = model_config({"kind": "leaky", "vocab_size": 3}).build(torch.Generator().manual_seed(2))
    largest = -model.mixer.log_rate.detach().exp().min()
    assert layer["kind"] == "leaky"
    assert layer["spectral_abscissa"] == pytest.approx(float(largest), rel=1e-6)


def test_without_the_adapter_the_layer_is_not_audited(cli: Cli, checkpoint: Path) -> None:
    leaky("@register_adapter\n", "")
    code, _, err = cli(*AUDIT)
    assert code == 2
    assert "no state-space layer in SequenceClassifier" in err


WRONG = {
    "matches None": ('hasattr(module, "log_rate")', "None", "matches() gives None"),
    "matches a name": ('hasattr(module, "log_rate")', "type(module).__name__", "gives a str"),
    "matches anything": ('hasattr(module, "log_rate")', "True", "no submodule of it"),
    "matches raises": ('hasattr(module, "log_rate")', "1 / 0", "ZeroDivisionError"),
    "no matrix": (STATE, "        return None\n", "the state matrix is None"),
    "a vector": (STATE, STATE.replace(".unsqueeze(1)", ""), "float32 of shape (4,)"),
    "integers": (STATE, STATE.replace("1)\n", "1).long()\n"), "is int64 of shape (4, 1)"),
    "NaN": (STATE, STATE.replace("1)\n", "1) * float('nan')\n"), "holds NaN or infinity"),
    "state raises": (STATE, "        return module.rates\n", "AttributeError"),
    "no recurrence": (READ, "        return None\n", "read() gives None"),
    "another recurrence": (READ, "        return (u, delta)\n", "read() gives a tuple"),
    "delta too short": (READ, READ.replace("delta,", "delta[:, 1:],"), "delta of the recurrence"),
    "delta too wide": (READ, READ.replace("delta,", "delta[..., :1],"), "(batch, length, rates)"),
    "B too short": (READ, READ.replace("ones, ones", "ones[:, 1:], ones"), "cannot be computed"),
    "u too wide": (READ, READ.replace("(u,", "(u[..., :3],"), "cannot be computed"),
    "read exits": (READ, "        raise SystemExit(0)\n", "SystemExit: 0"),
    "hands on a list": (
        READ,
        READ + "\n    def hand_on(self, module, call, outputs):\n        return []\n",
        "hand_on() gives a list",
    ),
    "fails to hand on": (
        READ,
        READ + "\n    def hand_on(self, module, call, outputs):\n        return module.gate\n",
        "AttributeError",
    ),
    "no directions": (
        READ,
        READ + "\n    def directions(self, module):\n        return {'': None}\n",
        "which is no adapter",
    ),
    "unwatched": (READ, "        return call.seen['nothing']\n", "KeyError: 'nothing'"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_an_adapter_gives_wrongly_is_refused(cli: Cli, checkpoint: Path, fault: str) -> None:
    old, new, complaint = WRONG[fault]
    leaky(old, new)
    code, out, err = cli(*AUDIT)
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert (code, out, len(lines)) == (2, "", 1)
    assert re.match(r"error: leaky\.py:\d+: ", lines[0])
    assert complaint in lines[0]


EDITS = {
    "a list": ("[]", "an edit is a list"),
    "no parameter": ('{"rate": module.log_rate}', "names 'rate', no parameter of Leaky"),
    "another shape": ('{"log_rate": module.log_rate[:2]}', "makes log_rate float32 of shape (2,)"),
    "no tensor": ('{"log_rate": 3.0}', "makes log_rate a float"),
}


@pytest.mark.parametrize("fault", EDITS)
def test_edits_of_repairs_are_checked(fault: str) -> None:
    value, complaint = EDITS[fault]
    Path("leaky.py").write_text(
        ADAPTER + f"\n    def edit_rates(self, module, A):\n        return {value}\n"
    )
    load_plugin("leaky.py")
    model = model_config({"kind": "leaky", "vocab_size": 3}).build()
    [layer] = find_layers(model)
    with pytest.raises(PluginError, match=re.escape(complaint)):
        layer.adapter.edit_rates(layer.module, layer.state_matrix())


def test_right_edits_pass() -> None:
    edit = "\n    def edit_rates(self, module, A):\n        return {'log_rate': (-A).log()[:, 0]}\n"
    Path("leaky.py").write_text(ADAPTER + edit)
    load_plugin("leaky.py")
    [layer] = find_layers(model_config({"kind": "leaky", "vocab_size": 3}).build())
    made = layer.adapter.edit_rates(layer.module, layer.state_matrix())
    assert made is not None
    torch.testing.assert_close(made["log_rate"], layer.module.log_rate)
    assert callable(repair)


def test_the_adapter_that_came_last_is_asked_first() -> None:
    leaky()
    load_plugin("leaky.py")
    layer_and_model, adapter = ADAPTER.split("@register_adapter\n")
    imports = layer_and_model[: layer_and_model.index("class Leaky(")]
    adapter = adapter.replace("LeakyAdapter", "NewerAdapter").replace('"leaky"', '"new"')
    again = f"{imports}@register_adapter\n{adapter}"
    Path("newer.py").write_text(again)
    load_plugin("newer.py")
    assert [adapter.kind for adapter in known_adapters()[:2]] == ["new", "leaky"]
    assert known_adapters()[2:] == ADAPTERS
    [layer] = find_layers(model_config({"kind": "leaky", "vocab_size": 3}).build())
    assert layer.kind == "new"
