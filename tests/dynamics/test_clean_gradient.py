"""The objective of sequences without noise, against the recurrence differentiated in float64."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import run_interpreted
from torch.nn.functional import one_hot

import keelback
from keelback.dynamics.gated import GatedSSM, class_readout, hinge_loss
from keelback.dynamics.gradient import clean_objective
from keelback.errors import InputError


def replicas(count, samples, length, dim, width, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(dim, (count, samples, length), generator=generator),
        torch.randn(count, samples, generator=generator).sign(),
        class_readout(width)[:, 0],
        scale * torch.randn(count, dim, generator=generator, dtype=torch.float64),
        torch.randn(count, width, dim, generator=generator, dtype=torch.float64),
    )


def by_autograd(features, signs, w, W_O):
    """Loss and gradient of each replica by differentiating the recurrence, in float64."""
    steps = []
    dim = w.shape[1]
    for r in range(len(features)):
        model = GatedSSM(dim, W_O.shape[1]).double()
        with torch.no_grad():
            model.w.copy_(w[r])
            model.W_O.copy_(W_O[r])
        labels = (signs[r] < 0).long()
        loss = hinge_loss(model(one_hot(features[r], dim).double(), "recurrent"), labels).mean()
        steps.append((loss.detach(), *torch.autograd.grad(loss, (model.w, model.W_O))))
    return [torch.stack(parts) for parts in zip(*steps, strict=True)]


def assert_gradient(step, expected, tolerance=1e-7):
    for found, wanted in zip((step.loss, step.w, step.W_O), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


SHAPES = [(3, 12, 30, 32, 50), (1, 9, 1, 3, 2), (2, 130, 17, 20, 18), (2, 8, 33, 5, 66)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_it_is_the_gradient(shape, backend):
    features, signs, v, w, W_O = replicas(*shape)
    step = clean_objective(features, signs, v, w.shape[1], backend=backend).gradient(w, W_O)
    assert_gradient(step, by_autograd(features, signs, w, W_O))


@given(
    length=st.integers(1, 9),
    dim=st.integers(3, 6),
    scale=st.sampled_from([0.0, 1.0, 4.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_both_forms_agree(length, dim, scale, seed):
    features, signs, v, w, W_O = replicas(1, 5, length, dim, 4, scale, seed)
    first, second = (
        clean_objective(features, signs, v, dim, backend=backend) for backend in ("torch", "numba")
    )
    step = first.gradient(w, W_O)
    assert_gradient(second.gradient(w, W_O), (step.loss, step.w, step.W_O), 1e-12)
    torch.testing.assert_close(first.margins(w, W_O), second.margins(w, W_O))


@pytest.mark.parametrize("scale", [40.0, 400.0, 1e4])
def test_saturated_gates_keep_the_gradient(scale):
    features, signs, v, w, W_O = replicas(2, 16, 10, 6, 8, scale)
    step = clean_objective(features, signs, v, 6).gradient(w, W_O)
    assert_gradient(step, by_autograd(features, signs, w, W_O))


def test_sequences_beyond_the_hinge_count_for_nothing():
    features, signs, v, w, W_O = replicas(1, 40, 10, 6, 8)
    objective = clean_objective(features, signs, v, 6)
    margins = objective.margins(w, W_O)
    W_O = W_O * (1.5 / margins[margins > 0].median())
    inside = objective.margins(w, W_O)[0] < 1
    assert 0 < inside.sum() < 40
    part = clean_objective(features[:, inside], signs[:, inside], v, 6).gradient(w, W_O)
    whole = objective.gradient(w, W_O)
    torch.testing.assert_close(whole.W_O, inside.double().mean() * part.W_O)
    torch.testing.assert_close(whole.w, inside.double().mean() * part.w)


def test_kept_replicas_compute_what_they_did():
    features, signs, v, w, W_O = replicas(4, 70, 10, 6, 8)
    objective = clean_objective(features, signs, v, 6)
    kept = torch.tensor([1, 3])
    whole, part = objective.gradient(w, W_O), objective.keep(kept).gradient(w[kept], W_O[kept])
    assert torch.equal(part.w, whole.w[kept])
    assert torch.equal(part.W_O, whole.W_O[kept])


def test_backends_that_cannot_run_are_refused():
    features, signs, v, _, _ = replicas(1, 4, 4, 4, 2)
    with pytest.raises(InputError, match="torch, numba or triton"):
        clean_objective(features, signs, v, 4, backend="jax")
    with pytest.raises(InputError, match="NVIDIA GPU"):
        clean_objective(features, signs, v, 4, backend="triton")


_INTERPRETED = """
import torch
from test_clean_gradient import assert_gradient, by_autograd, replicas
from keelback.dynamics.gradient.clean_triton import agrees, triton_clean
assert agrees(6, 5, "cpu")
for shape in ((1, 18, 17, 20, 18), (2, 3, 7, 3, 2), (1, 5, 1, 3, 2), (1, 4, 40, 33, 4)):
    features, signs, v, w, W_O = replicas(*shape)
    objective = triton_clean(features, signs, v)
    step = objective.gradient(w, W_O)
    assert_gradient(step, by_autograd(features, signs, w, W_O), 1e-5)
    margins = objective.margins(w, W_O)
    torch.testing.assert_close(torch.relu(1 - margins).mean(1), step.loss)
    kept = torch.tensor([0])
    again = objective.keep(kept).gradient(w[kept], W_O[kept])
    assert torch.equal(again.W_O, step.W_O[kept])
"""


def test_gpu_kernel_in_the_interpreter():
    run_interpreted(_INTERPRETED)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_kernel(shape):
    features, signs, v, w, W_O = replicas(*shape)
    on_gpu = [part.cuda() for part in (features, signs, v)]
    objective = clean_objective(*on_gpu, w.shape[1], backend="triton")
    step = objective.gradient(w.cuda(), W_O.cuda())
    for found, wanted in zip(
        (step.loss, step.w, step.W_O), by_autograd(features, signs, w, W_O), strict=True
    ):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(objective.gradient(w.cuda(), W_O.cuda()).w, step.w)


_AT_THE_KINK = """
import torch
from test_clean_gradient import replicas
from keelback.dynamics.gradient import clean_objective

features, signs, v, w, W_O = (part.cuda() for part in replicas(4096, 16, 20, 32, 50))
objective = clean_objective(features[:, :1], signs[:, :1], v, 32, backend="triton")
margins = objective.margins(w, W_O)
assert (margins != 0).all()
signs = signs * margins.sign().float()
objective = clean_objective(features[:, :1].expand_as(features), signs[:, :1].expand_as(signs), v,
                            32, backend="triton")
for scale in (1 - 1e-7, 1, 1 + 1e-7):
    step = objective.gradient(w, W_O * (scale / margins.abs())[..., None])
    torch.testing.assert_close(step.loss, torch.zeros_like(step.loss), rtol=0, atol=1e-2)
    assert torch.isfinite(step.w).all()
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_gpu_kernel_ends_where_every_margin_is_one():
    """Threads that disagreed on a margin's last bit once waited for each other for ever."""
    program = [sys.executable, "-c", _AT_THE_KINK]
    folders = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        program, env=os.environ | {"PYTHONPATH": folders}, timeout=120, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_no_branch_of_a_triton_kernel_depends_on_data():
    """Such a branch hangs where threads differ on it; constants and counters are safe."""
    found = 0
    for kernel in _triton_kernels():
        data = set()
        for node in ast.walk(kernel):
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if "tl.load" in ast.unparse(node.value) or _names(node.value) & data:
                    data |= set().union(*map(_names, targets))
        for node in ast.walk(kernel):
            if isinstance(node, ast.If | ast.While | ast.IfExp):
                assert not _names(node.test) & data, f"{kernel.name}: if {ast.unparse(node.test)}"
        found += bool(data)
    assert found >= 2


def _triton_kernels():
    for path in Path(keelback.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "triton.jit" in map(
                ast.unparse, node.decorator_list
            ):
                yield node


def _names(node):
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"tl"}
