"""Code that imports delta rules from flash-linear-attention, and gets keelback's."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.delta.reference import delta_rule_reference
from keelback.errors import InputError
from keelback.integrations import provide_fla
from keelback.integrations._stand_in import is_installed

NAMES = {
    "fla.ops.gated_delta_rule": ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"),
    "fla.ops.kda": ("chunk_kda", "fused_recurrent_kda"),
}
RULES = [(module, name) for module, names in NAMES.items() for name in names]


@pytest.fixture(autouse=True)
def _provided() -> Iterator[None]:
    if is_installed("fla"):
        pytest.skip("flash-linear-attention itself is installed")
    with provide_fla():
        yield


def function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def operands(module: str, batch: int = 2, length: int = 40) -> dict[str, Tensor]:
    """Two groups of queries and keys for four heads."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    channels = (8,) if module == "fla.ops.kda" else ()
    return {
        "q": normal(batch, length, 2, 8),
        "k": normal(batch, length, 2, 8),
        "v": normal(batch, length, 4, 6),
        "g": -normal(batch, length, 4, *channels).square(),
        "beta": normal(batch, length, 4).sigmoid(),
    }


def expected(given: dict[str, Tensor], states: Tensor | None = None, **options: Any) -> Any:
    wide = {name: x.double() for name, x in given.items()}
    start = None if states is None else states.double()
    y, last = delta_rule_reference(**wide, initial_states=start, **options)
    return y.float(), last.float()


@pytest.mark.parametrize(("module", "name"), RULES)
def test_outputs_states_and_gradients_are_those_of_the_recurrence(module: str, name: str) -> None:
    given = {key: x.requires_grad_() for key, x in operands(module).items()}
    states = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y, last = function(module, name)(
        **given,
        initial_state=states,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        scale=0.3,
        chunk_size=32,
    )
    exact_y, exact_last = expected(given, states, normalise=True, scale=0.3)
    torch.testing.assert_close(y, exact_y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, exact_last, rtol=1e-4, atol=1e-5)
    leaves = [*given.values(), states]
    found = torch.autograd.grad(y.sin().sum() + last.square().sum(), leaves)
    wanted = torch.autograd.grad(exact_y.sin().sum() + exact_last.square().sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert function(module, name)(**given)[1] is None


@pytest.mark.parametrize(("module", "name"), RULES)
def test_a_step_goes_on_from_the_states(module: str, name: str) -> None:
    given, run = operands(module), function(module, name)
    whole, last = run(**given, output_final_state=True)
    _, before = run(**{key: x[:, :-1] for key, x in given.items()}, output_final_state=True)
    now = {key: x[:, -1:] for key, x in given.items()}
    y, after = run(**now, initial_state=before, output_final_state=True)
    torch.testing.assert_close(y, whole[:, -1:])
    torch.testing.assert_close(after, last)


@pytest.mark.parametrize(("module", "name"), RULES)
def test_packed_sequences_have_states_of_their_own(module: str, name: str) -> None:
    given, run = operands(module, batch=1), function(module, name)
    bounds = torch.tensor([0, 7, 8, 40])
    states = torch.randn(3, 4, 8, 6)
    for start in (None, states):
        y, last = run(**given, initial_state=start, output_final_state=True, cu_seqlens=bounds)
        assert last.shape == states.shape
        for i, (a, b) in enumerate([(0, 7), (7, 8), (8, 40)]):
            own = None if start is None else start[i : i + 1]
            exact_y, exact_last = expected({key: x[:, a:b] for key, x in given.items()}, own)
            torch.testing.assert_close(y[:, a:b], exact_y, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(last[i : i + 1], exact_last, rtol=1e-4, atol=1e-5)
    alone, none = run(**given, cu_seqlens=bounds)
    assert none is None
    torch.testing.assert_close(alone, run(**given, cu_seqlens=bounds, output_final_state=True)[0])


@pytest.mark.parametrize("option", ["state_v_first", "transpose_state_layout"])
def test_states_may_have_the_values_first(option: str) -> None:
    given, run = operands("fla.ops.kda"), function("fla.ops.kda", "chunk_kda")
    states = torch.randn(2, 4, 8, 6)
    y, last = run(**given, initial_state=states, output_final_state=True)
    found, turned = run(**given, initial_state=states.mT, output_final_state=True, **{option: True})
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(turned, last.mT)


def test_the_gate_and_the_sigmoid_of_beta_may_be_the_kernels() -> None:
    for module, name in RULES:
        given, run = operands(module), function(module, name)
        raw = {**given, "g": torch.randn_like(given["g"]), "beta": torch.randn(2, 40, 4)}
        A_log = torch.randn(4)
        by_channel = module == "fla.ops.kda"
        bias = torch.randn(4 * 8 if by_channel else 4)
        shaped = bias.view(4, 8) if by_channel else bias
        rates = A_log.exp().view(4, 1) if by_channel else A_log.exp()
        inside = {
            "use_gate_in_kernel": True,
            "A_log": A_log,
            "dt_bias": bias,
            "use_beta_sigmoid_in_kernel": True,
        }
        computed = {
            **given,
            "g": -rates * F.softplus(raw["g"] + shaped),
            "beta": raw["beta"].sigmoid(),
        }
        torch.testing.assert_close(run(**raw, **inside)[0], run(**computed)[0])
        computed["beta"] = 2 * computed["beta"]
        found = run(**raw, **inside, allow_neg_eigval=True)[0]
        torch.testing.assert_close(found, run(**computed)[0])
        if by_channel:
            computed["g"] = -5.0 * torch.sigmoid(rates * (raw["g"] + shaped))
            bounded = {**inside, "allow_neg_eigval": True, "lower_bound": -5.0, "safe_gate": True}
            torch.testing.assert_close(run(**raw, **bounded)[0], run(**computed)[0])
            computed["g"] = -5.0 * torch.sigmoid(raw["g"] + shaped)
            bounded["A_log"] = None
            torch.testing.assert_close(run(**raw, **bounded)[0], run(**computed)[0])


def test_the_gate_is_that_of_older_and_newer_releases() -> None:
    gate = function("fla.ops.kda.gate", "fused_kda_gate")
    g, A_log, bias = torch.randn(2, 5, 12), torch.randn(3), torch.randn(12)
    expected = -A_log.exp().view(3, 1) * F.softplus(g.view(2, 5, 3, 4) + bias.view(3, 4))
    torch.testing.assert_close(gate(g.view(2, 5, 3, 4), A_log, bias), expected)
    torch.testing.assert_close(gate(g, A_log, 4, g_bias=bias), expected)
    torch.testing.assert_close(
        gate(g, A_log.view(1, 1, 3, 1), head_k_dim=4, dt_bias=bias), expected
    )
    half = gate(g.view(2, 5, 3, 4), A_log, bias, output_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    bounded = -5.0 * torch.sigmoid(g.view(2, 5, 3, 4) + bias.view(3, 4))
    torch.testing.assert_close(gate(g.view(2, 5, 3, 4), None, bias, -5.0), bounded)
    with pytest.raises(InputError, match="neither A_log nor lower_bound is given"):
        gate(g.view(2, 5, 3, 4), None, bias)


def test_decays_per_head_and_channel_add_up_and_beta_may_be_absent() -> None:
    given = operands("fla.ops.gated_delta_rule")
    run = function("fla.ops.gated_delta_rule", "fused_recurrent_gated_delta_rule")
    q, k, v, g, _ = given.values()
    gk = -torch.rand(2, 40, 4, 8)
    ones = torch.ones(2, 40, 4)
    exact, _ = expected(
        {"q": q, "k": k, "v": v, "g": g.unsqueeze(-1) + gk, "beta": ones}, normalise=True
    )
    found, _ = run(q, k, v, g, gk, use_qk_l2norm_in_kernel=True)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    exact, _ = expected({"q": q, "k": k, "v": v, "g": 0 * g, "beta": ones}, normalise=True)
    found, _ = run(q, k, v, use_qk_l2norm_in_kernel=True)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cp_context": object()}, "keelback's chunk_kda does not take cp_context"),
        ({"wings": 2}, "does not take wings"),
        ({"head_first": True}, "does not take head_first"),
        ({"use_gate_in_kernel": True}, "neither A_log nor lower_bound is given"),
        ({"allow_neg_eigval": True}, "without use_beta_sigmoid_in_kernel"),
        ({"cu_seqlens": torch.tensor([0, 40])}, "with a batch of 2; it should be 1"),
    ],
)
def test_what_cannot_be_honoured_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        function("fla.ops.kda", "chunk_kda")(**operands("fla.ops.kda"), **options)


@pytest.mark.parametrize("bounds", [[0, 3], [1, 40], [0, 30, 20, 40], [0, 50]])
@pytest.mark.parametrize("wants_states", [False, True])
def test_bounds_that_do_not_fit_are_refused(bounds: list[int], wants_states: bool) -> None:
    given = operands("fla.ops.kda", batch=1)
    with pytest.raises(InputError, match="cu_seqlens should rise from 0 to the length 40"):
        function("fla.ops.kda", "chunk_kda")(
            **given, output_final_state=wants_states, cu_seqlens=torch.tensor(bounds)
        )


def test_states_of_another_number_of_sequences_are_refused() -> None:
    given = operands("fla.ops.kda", batch=1)
    with pytest.raises(InputError, match="initial_state is of 3 sequences; cu_seqlens has 2"):
        function("fla.ops.kda", "chunk_kda")(
            **given, initial_state=torch.zeros(3, 4, 8, 6), cu_seqlens=torch.tensor([0, 5, 40])
        )


def test_options_that_are_off_and_those_of_speed_are_taken() -> None:
    given, run = operands("fla.ops.kda"), function("fla.ops.kda", "chunk_kda")
    options = {"cp_context": None, "head_first": False, "chunk_size": 16, "safe_gate": True}
    options |= {"use_graph": False, "max_num_seqs": None}
    assert torch.equal(run(**given, **options)[0], run(**given)[0])


def test_half_precision_keeps_its_type_and_states_are_wide() -> None:
    given = {key: x.bfloat16() for key, x in operands("fla.ops.kda").items()}
    y, last = function("fla.ops.kda", "chunk_kda")(**given, output_final_state=True)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)


def test_what_is_not_there_cannot_be_imported() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("fla.layers")
    with pytest.raises(ImportError, match="chunk_rwkv6"):
        from fla.ops import chunk_rwkv6  # noqa: F401


def test_it_is_undone() -> None:
    provided = provide_fla()
    assert not is_installed("fla")
    provided.undo()
    assert "fla" not in sys.modules


class OnGpu(Tensor):
    is_cuda = True


def test_of_an_installed_fla_functions_are_replaced_where_ours_are_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs: dict[str, Any] = {}
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name in [name for name in sys.modules if name.startswith("fla.ops.")]:
        monkeypatch.delitem(sys.modules, name)
    for name, function in (
        ("kda", "chunk_kda"),
        ("gated_delta_rule", "chunk_gated_delta_rule"),
        ("rwkv7", "chunk_rwkv7"),
    ):
        module: Any = ModuleType(f"fla.ops.{name}")
        setattr(module, function, lambda *args, **kwargs: "theirs")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        theirs[function] = module
    originals = {name: getattr(module, name) for name, module in theirs.items()}

    def found(name: str, given: dict[str, Any], dtype: torch.dtype, **options: Any) -> str:
        q, k, v = (given[x].repeat(1, 1, 1, 8)[..., :32].to(dtype) for x in "qkv")
        on_gpu = {**given, "q": q.as_subclass(OnGpu), "k": k, "v": v}
        if name == "chunk_kda":
            on_gpu["g"] = given["g"].repeat(1, 1, 1, 8)[..., :32]
        result = getattr(theirs[name], name)(**on_gpu, **options)
        return "theirs" if isinstance(result, str) else "ours"

    by_channel, by_head = operands("fla.ops.kda"), operands("fla.ops.gated_delta_rule")
    half = torch.bfloat16
    with provide_fla() as provided:
        assert set(provided.names) == {f"{m.__name__}.{name}" for name, m in theirs.items()}
        assert torch.is_tensor(theirs["chunk_kda"].chunk_kda(**by_channel)[0])
        assert found("chunk_kda", by_channel, half) == "ours"
        assert found("chunk_kda", by_channel, half, cp_context=None) == "theirs"
        assert found("chunk_kda", by_channel, torch.float16) == "theirs"
        assert found("chunk_kda", {**by_channel, "beta": by_channel["v"]}, half) == "theirs"
        q, k, v, *others = (by_channel[name] for name in ("q", "k", "v", "g", "beta"))
        on_gpu = q.to(half).as_subclass(OnGpu)
        rest = (None, None, False, False, False)  # One more than ours has by places.
        assert theirs["chunk_kda"].chunk_kda(on_gpu, k, v, *others, *rest) == "theirs"
        assert found("chunk_gated_delta_rule", by_head, half) == "ours"
        assert found("chunk_gated_delta_rule", by_head, torch.float32) == "theirs"
        assert found("chunk_gated_delta_rule", by_head, half, cp_context=None) == "theirs"
        assert theirs["chunk_rwkv7"].chunk_rwkv7(torch.ones(1).as_subclass(OnGpu)) == "theirs"
    assert all(getattr(module, name) is originals[name] for name, module in theirs.items())
