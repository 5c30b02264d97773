"""The CUDA source, compiled for the host and run thread by thread, against float64 autograd."""

import dataclasses

import pytest
import torch
from host import AMPERE, DESKTOP, HOPPER, on_host, run_backward, run_forward
from host_kernels import COMPILER
from ssd_cases import Case, errors_of, tolerance

from keelback.ssd.cuda import launch

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

BF16, FP16 = torch.bfloat16, torch.float16
CPU = torch.device("cpu")
CASES = [
    Case(),
    Case(batch=1, length=1, heads=1),
    Case(batch=1, length=150, dtype=BF16, z=True, initial=True, reset=True, D="number", groups=3),
    Case(batch=1, length=130, dtype=FP16, D=None, bias=False, softplus=False, dt_limit=(0.1, 0.4)),
    Case(batch=1, length=140, heads=2, head_dim=64, state=128, dtype=BF16, dt_dtype=torch.float32),
    Case(
        batch=1,
        length=200,
        heads=3,
        head_dim=64,
        state=128,
        dtype=BF16,
        z=True,
        initial=True,
        reset=True,
    ),
    Case(
        batch=2,
        length=70,
        heads=4,
        groups=2,
        head_dim=128,
        state=64,
        dtype=FP16,
        initial=True,
        D="number",
    ),
    Case(batch=1, length=70, heads=2, head_dim=80, state=48, dtype=BF16, initial=True),
    Case(batch=1, length=33, heads=1, head_dim=128, state=256, dtype=BF16),
    Case(batch=1, length=40, heads=1, head_dim=16, state=256, initial=True, reset=True),
    Case(batch=1, length=40, heads=1, head_dim=20, state=20, z=True, initial=True, D="number"),
]


@pytest.fixture(autouse=True, params=[HOPPER, AMPERE], ids=["hopper", "ampere"])
def kernels_on_host(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    on_host(monkeypatch.setattr, request.param)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(case: Case) -> None:
    if case.dtype == torch.float32 and case.state == 256 and not launch.card_of(CPU).wide:
        pytest.skip("more shared memory than the card has")
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.slow
def test_what_is_added_to_the_states_is_not_rounded() -> None:
    case = Case(batch=1, heads=2, head_dim=64, state=64, dtype=BF16, initial=True, rate=0.02)
    errors = errors_of(case, run_forward, run_backward)
    assert errors["dinitial_states"] < 1e-4, errors


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "state"), [(torch.float32, 64), (BF16, 128)])
def test_blocks_with_less_shared_memory_take_less_at_a_time(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, state: int
) -> None:
    on_host(monkeypatch.setattr, DESKTOP)
    options = {"initial": True, "reset": True, "z": True, "D": "number"}
    case = Case(batch=1, heads=2, head_dim=64, state=state, dtype=dtype, **options)
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.slow
@pytest.mark.parametrize("segments", [2, 4])
@pytest.mark.parametrize("sizes", [(16, 16), (64, 32)], ids=["by warps", "by warpgroups"])
def test_segments_of_the_length_change_nothing(
    segments: int, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"initial": True, "reset": True, "dtype": BF16, "rate": 0.02}
    head_dim, state = sizes
    case = Case(batch=1, length=420, heads=3, head_dim=head_dim, state=state, **options)

    def in_segments(name: str):  # type: ignore[no-untyped-def]
        plan_of = getattr(launch, name)

        def plan(*arguments):  # type: ignore[no-untyped-def]
            found = plan_of(*arguments)
            if found.cut.chunks < segments:  # Whether there are kernels is asked for one step.
                return found
            length = -(-found.cut.chunks // segments)
            states = dataclasses.replace(
                found.states,
                segments=-(-found.cut.chunks // length),
                chunks_per_segment=length,
            )
            assert states.segments == segments
            return dataclasses.replace(found, states=states)

        monkeypatch.setattr(launch, name, plan)

    in_segments("forward_plan")
    in_segments("backward_plan")
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.slow
@pytest.mark.parametrize("launches", [1, 2])
def test_subsets_of_the_heads_change_nothing(
    launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(batch=1, length=80, heads=10, groups=2, dtype=BF16, z=True, initial=True)
    plan_of = launch.backward_plan

    def in_subsets(*arguments):  # type: ignore[no-untyped-def]
        plan = plan_of(*arguments)
        cut = dataclasses.replace(
            plan.cut, heads=2, subsets=3 // launches + launches - 1, launches=launches
        )
        return dataclasses.replace(plan, cut=cut)

    monkeypatch.setattr(launch, "backward_plan", in_subsets)
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < tolerance(case), errors
