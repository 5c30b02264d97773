"""The kernel of a decoding step, compiled for the host, against float64 on PyTorch's path."""

import math

import pytest
import torch
from cuda_cases import TOLERANCE
from host_kernels import COMPILER, run_on_host
from step_cases import BF16, CASES, F32, errors_of, make_step, run_step

from keelback.compiled import cuda_launch
from keelback.compiled.watchers import is_transformed, needs_gradient
from keelback.errors import InputError
from keelback.scan.cuda import step

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    run_on_host(monkeypatch, processors=0)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_definition(case: str, in_place: bool) -> None:
    given = make_step(**CASES[case])
    coarse = given["state"].dtype if in_place else given["A"].dtype
    y, state = errors_of(given, in_place=in_place)
    assert y < TOLERANCE[given["u"].dtype]
    assert state < TOLERANCE[coarse]


def test_without_softplus_the_step_size_is_taken_as_it_is() -> None:
    assert max(errors_of(make_step(), softplus=False)) < TOLERANCE[F32]


@pytest.mark.parametrize("name", ["state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_operands_may_lie_in_any_way(name: str, dtype: torch.dtype) -> None:
    """As a slice of something wider, transposed, and at an address no pack begins at."""
    given = make_step(dtype=dtype)
    x = given[name]
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), math.nan, dtype=x.dtype)
    wide[..., 1:-2] = x
    for same in (wide[..., 1:-2], x.mT.contiguous().mT if x.ndim > 1 else x[None].T[:, 0]):
        y, state = errors_of({**given, name: same})
        assert y < TOLERANCE[dtype]
        assert state < TOLERANCE[F32]


@pytest.mark.parametrize(("rows", "channels"), [(0, 4), (2, 0)])
def test_nothing_to_do(rows: int, channels: int) -> None:
    found = run_step(**make_step(rows, channels), delta_softplus=True, in_place=False)
    assert found is not None
    y, state = found
    assert y.shape == (rows, channels)
    assert state.shape == (rows, channels, 16)


def test_an_infinite_input_is_skipped_by_nothing_where_there_is_no_skip() -> None:
    given = make_step(D=False, z=False)
    given["u"][0, 0] = math.inf
    given["C"][:] = 1.0
    given["B"][:] = 1.0
    found = run_step(**given, delta_softplus=True, in_place=True)
    assert found is not None
    assert found[0][0, 0] == math.inf
    assert torch.isfinite(found[0][1:]).all()


def test_an_overwritten_state_is_known_to_be_another() -> None:
    given = make_step()
    weight = torch.ones_like(given["state"], requires_grad=True)
    readout = (weight * given["state"]).sum()
    run_step(**given, delta_softplus=True, in_place=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        readout.backward()


def test_a_state_whose_rows_are_one_is_left_to_pytorch() -> None:
    given = make_step()
    given["state"] = given["state"][:1].expand(3, -1, -1)
    assert run_step(**given, delta_softplus=True, in_place=True) is None
    assert max(errors_of(given, in_place=False)) < TOLERANCE[F32]


def test_what_is_watched_is_left_to_pytorch() -> None:
    tensors = tuple(make_step().values())
    assert not needs_gradient(*tensors)
    with_gradient = (*tensors[:-1], tensors[-1].clone().requires_grad_())
    assert needs_gradient(*with_gradient)
    with torch.no_grad():
        assert not needs_gradient(*with_gradient)
    assert not is_transformed()
    assert torch.vmap(lambda x: x if is_transformed() else x.new_zeros(()))(torch.ones(2)).all()


def test_other_dtypes_are_left_to_pytorch() -> None:
    given = make_step()
    for name in ("u", "A", "B", "state"):
        other = {**given, name: given[name].double()}
        assert run_step(**other, delta_softplus=True, in_place=False) is None


def test_wrong_shapes_are_refused_before_a_launch() -> None:
    given = {**make_step(), "B": torch.zeros(3, 5, 16)}
    with pytest.raises(InputError, match="B has 5 groups"):
        run_step(**given, delta_softplus=True, in_place=True)


def test_threads_take_several_rows_only_where_enough_threads_remain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []

    class Recorder:
        def launch(self, blocks: int, threads: int, arguments: bytes) -> None:
            taken[-1] += (blocks * threads,)

    def kernel(name: str, configuration: step.StepConfiguration, device: int | None) -> Recorder:
        taken.append((configuration.rows,))
        return Recorder()

    monkeypatch.setattr(cuda_launch, "kernel", kernel)
    monkeypatch.setattr(step, "processors_of", lambda device: 132)
    for batch in (1, 16, 64):
        run_step(**make_step(batch, 1536), delta_softplus=True, in_place=True)
    assert taken == [(1, 6144), (1, 98304), (4, 98304)]
