"""Models from outside: what they build and give is checked, and the seed decides their start."""

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plugin_files import ADAPTER, MODEL

from keelback import load_model, load_plugin, save_model
from keelback.errors import InputError, PluginError
from keelback.models import model_config
from keelback.registry import PluginWarning

Cli = Callable[..., tuple[int, str, str]]

TRAIN = (
    "train", "--plugin", "bag.py", "--task", "majority", "--model", "bag", "--seq-len", "6",
    "--epochs", "1", "--set", "task_settings.n_train=70", "--out", "run",
)  # fmt: skip


def bag(old: str = "", new: str = "", of: str = MODEL) -> None:
    assert old in of
    Path("bag.py").write_text(of.replace(old, new, 1) if old else of)


BUILD, INIT = "        return Bag(self)\n", "        super().__init__()\n"
RETURN = "        return logits.squeeze(1) if self.binary else logits\n"
WRONG_BUILDS = {
    "None": (BUILD, "        Bag(self)\n", "gives None, not a torch.nn.Module"),
    "no module": (BUILD, "        return Bag\n", "gives a type, not a torch.nn.Module"),
    "nothing to learn": (BUILD, "        return nn.ReLU()\n", "has no parameters"),
    "two types": (BUILD, "        bag = Bag(self); bag.head.double(); return bag\n", "float64"),
    "complex": (
        INIT,
        INIT + "        import torch\n        self.c = nn.Parameter(torch.zeros(2) * 1j)\n",
        "complex64",
    ),
    "frozen": (BUILD, "        bag = Bag(self); bag.requires_grad_(False); return bag\n", "frozen"),
    "buffer": (
        INIT,
        INIT + "        import torch\n        self.register_buffer('b', torch.zeros(2))\n",
        "b is part of the model's state dict but no parameter",
    ),
    "shared": (
        "        self.head =",
        "        self.again = self.embedding\n        self.head =",
        "do not share parameters",
    ),
    "raises": (BUILD, "        raise OSError('no weights')\n", "OSError: no weights"),
    "exits": (BUILD, "        raise SystemExit(0)\n", "SystemExit: 0"),
    "other config": (INIT, INIT + "        self.config = 3\n", "not the configuration"),
}
WRONG_LOGITS = {
    "None": (RETURN, "        return None\n", "logits are None"),
    "a tuple": (RETURN, "        return (logits,)\n", "logits are a tuple"),
    "an axis more": (RETURN, "        return logits\n", r"shape \(\d+, 1\); they should be"),
    "two columns": (RETURN, "        return logits.expand(-1, 2)\n", r"of shape \(\d+,\)"),
    "each position": (
        RETURN, "        return logits.expand(*tokens.shape)\n", r"they should be floating point"
    ),
    "the mean": (RETURN, "        return logits.mean()\n", r"of shape \(\)"),
    "integers": (RETURN, "        return logits.squeeze(1).long()\n", "are int64"),
    "complex": (RETURN, "        return logits.squeeze(1) * 1j\n", "are complex64"),
    "raises": (RETURN, "        return 1 / 0\n", "ZeroDivisionError"),
    "wrong sizes": ("mean(1))", "mean(2))", "RuntimeError"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_BUILDS)
def test_what_is_built_wrongly_is_refused(cli: Cli, fault: str) -> None:
    old, new, complaint = WRONG_BUILDS[fault]
    bag(old, new)
    code, out, err = cli(*TRAIN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: bag\.py:\d+: ", err)
    assert re.search(complaint, err)
    assert not Path("run").exists()


@pytest.mark.parametrize("fault", WRONG_LOGITS)
def test_wrong_logits_are_refused_in_training_and_scoring(cli: Cli, fault: str) -> None:
    bag()
    load_plugin("bag.py")
    sound = model_config({"kind": "bag", "vocab_size": 2}).build()
    save_model(sound, Path("model.safetensors"))
    old, new, complaint = WRONG_LOGITS[fault]
    bag(old, new)
    evaluate = ("evaluate", "model.safetensors", "--plugin", "bag.py", "--task", "majority",
                "--seq-len", "6")  # fmt: skip
    for command in (TRAIN, evaluate):
        with warnings.catch_warnings(action="ignore", category=PluginWarning):
            code, out, err = cli(*command)
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert (code, out, len(lines)) == (2, "", 1)
        assert re.match(r"error: bag\.py:\d+: ", lines[0])
        assert re.search(complaint, lines[0])


def test_logits_that_are_no_numbers_are_not_scored(cli: Cli) -> None:
    bag()
    load_plugin("bag.py")
    save_model(model_config({"kind": "bag", "vocab_size": 2}).build(), Path("m.safetensors"))
    bag(RETURN, "        return logits.squeeze(1) * float('nan')\n")
    code, out, err = cli("evaluate", "m.safetensors", "--plugin", "bag.py", "--task", "majority",
                         "--seq-len", "6")  # fmt: skip
    assert (code, out) == (1, "")
    assert "NaN instead of a decision for 1000 of 1000 examples" in err


def test_a_parameter_without_a_part_in_the_logits(cli: Cli) -> None:
    bag("        self.head =", "        self.idle = nn.Linear(2, 2)\n        self.head =")
    code, _, err = cli(*TRAIN)
    assert code == 2
    assert "parameter idle.weight of Bag has no part in its logits" in err


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("return Leaky(self", "Leaky(self", "mixer() gives None"),
        ("        self.d_output = d_model\n", "", "d_output is None"),
        ("u)), A, ones, ones)\n", "u)), A, ones, ones)[..., :1]\n", "Leaky gives float32 of shape"),
        ("u)), A, ones, ones)\n", "u)), A, ones, ones).tolist()\n", "list|RuntimeError"),
        ("        return selective_scan(", "        selective_scan(", "gives a NoneType"),
        ("log_rate.exp()", "log_rates.exp()", "AttributeError"),
    ],
)
def test_wrong_mixers_are_refused(cli: Cli, old: str, new: str, complaint: str) -> None:
    bag(old, new, ADAPTER)
    code, out, err = cli(*(part if part != "bag" else "leaky" for part in TRAIN))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: bag\.py:\d+: ", err)
    assert re.search(complaint.replace("()", r"\(\)"), err)


def test_the_seed_decides_layers_that_draw_from_the_global_generator() -> None:
    bag()
    load_plugin("bag.py")
    config = model_config({"kind": "bag", "vocab_size": 3})
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, other, third = (
        config.build(torch.Generator().manual_seed(seed)).head.weight for seed in (5, 5, 6)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_does_not_blur_a_score(cli: Cli) -> None:
    bag(
        "self.embedding(tokens)",
        "nn.functional.dropout(self.embedding(tokens), 0.9, self.training)",
    )
    load_plugin("bag.py")
    save_model(model_config({"kind": "bag", "vocab_size": 2}).build(), Path("m.safetensors"))
    command = ("evaluate", "m.safetensors", "--plugin", "bag.py", "--task", "majority", "--seq-len",
               "9", "--json")  # fmt: skip
    assert len({cli(*command)[1] for _ in range(4)}) == 1


def test_a_checkpoint_says_which_plugin_it_needs(cli: Cli) -> None:
    bag()
    code, _, _ = cli(*TRAIN)
    assert code == 0
    [folder] = Path("run/runs").iterdir()
    shutil.move(str(folder), "trained")
    text = "trained/model.safetensors holds a model 'bag' of bag.py, which is not known; add --plu"
    with pytest.MonkeyPatch.context() as patch:
        from keelback import plugins
        from keelback.models import MODELS

        patch.setattr(plugins, "_loaded", {})
        patch.delitem(MODELS._parts, "bag")
        with pytest.raises(InputError, match=text):
            load_model(Path("trained"))
        load_plugin("bag.py")
        assert type(load_model(Path("trained"))).__name__ == "Bag"
        Path("bag.py").write_text(MODEL + "\n# edited\n")
        load_plugin("bag.py")
        with pytest.warns(PluginWarning, match="saved by another version of the model 'bag'"):
            load_model(Path("trained"))


def test_a_foreign_module_without_the_right_shape_is_told_in_python() -> None:
    bag(RETURN, "        return logits\n")
    load_plugin("bag.py")
    model = model_config({"kind": "bag", "vocab_size": 2}).build()
    with pytest.raises(PluginError, match=r"bag.py:\d+: model bag: logits of tokens \(3, 4\)"):
        model(torch.zeros(3, 4, dtype=torch.int32))
