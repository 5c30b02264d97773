import pytest
import torch
from interpreted import run_interpreted

from keelback.dynamics import GaussianNoise, MajorityVoting, sample_patterns
from keelback.dynamics.gated import GatedSSM, class_readout, hinge_loss
from keelback.dynamics.gradient import hinge_objective
from keelback.dynamics.patterns import stream
from keelback.errors import InputError


def replicas(count, samples, length, dim, width, scale=1.0):
    pattern = MajorityVoting(2 / length, 1 / length, length, dim)
    batches = [
        sample_patterns(pattern, samples, GaussianNoise(0.05), stream(seed, 0))
        for seed in range(count)
    ]
    generator = torch.Generator().manual_seed(7)
    return (
        torch.stack([batch.tokens for batch in batches]),
        torch.stack([batch.signs for batch in batches]),
        class_readout(width)[:, 0],
        scale * torch.randn(count, dim, generator=generator),
        torch.randn(count, width, dim, generator=generator),
    )


def by_autograd(tokens, signs, w, W_O, mixing=None):
    """The gradient of each replica by differentiating the recurrence, in float64."""
    steps = []
    for r in range(len(tokens)):
        model = GatedSSM(tokens.shape[-1], W_O.shape[1]).double()
        with torch.no_grad():
            model.w.copy_(w[r])
            model.W_O.copy_(W_O[r])
            if mixing is not None:
                model.W_C.copy_(mixing[r])
        labels = (signs[r] < 0).long()
        loss = hinge_loss(model(tokens[r].double(), "recurrent"), labels).mean()
        steps.append((loss.detach(), *torch.autograd.grad(loss, (model.w, model.W_O))))
    return [torch.stack(parts) for parts in zip(*steps, strict=True)]


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


SHAPES = [(3, 12, 30, 32, 50), (1, 9, 4, 3, 2), (2, 130, 17, 20, 18), (2, 8, 33, 5, 66)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_closed_form_is_the_gradient(shape, backend):
    tokens, signs, v, w, W_O = replicas(*shape)
    loss, dw, dW = by_autograd(tokens, signs, w, W_O)
    step = hinge_objective(tokens, signs, v, backend=backend).gradient(w, W_O)
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=1e-6)
    assert relative(step.w, dw) < 1e-5
    assert relative(step.W_O, dW) < 1e-5


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_closed_form_with_any_mixing(backend):
    tokens, signs, v, w, W_O = replicas(2, 10, 12, 6, 8)
    mixing = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3))
    _, dw, dW = by_autograd(tokens, signs, w, W_O, mixing)
    step = hinge_objective(tokens, signs, v, mixing, backend=backend).gradient(w, W_O)
    assert relative(step.w, dw) < 1e-5
    assert relative(step.W_O, dW) < 1e-5


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("scale", [0.0, 30.0, 300.0])
def test_saturated_gates_keep_the_gradient(backend, scale):
    tokens, signs, v, w, W_O = replicas(2, 8, 10, 6, 8, scale)
    _, dw, dW = by_autograd(tokens, signs, w, W_O)
    step = hinge_objective(tokens, signs, v, backend=backend).gradient(w, W_O)
    assert relative(step.W_O, dW) < 1e-4
    assert (step.w - dw).norm() < 1e-4 * dW.norm()


def test_float64_agrees_to_rounding():
    tokens, signs, v, w, W_O = (part.double() for part in replicas(2, 10, 12, 6, 8))
    loss, dw, dW = by_autograd(tokens, signs, w, W_O)
    step = hinge_objective(tokens, signs, v).gradient(w, W_O)
    torch.testing.assert_close(step.loss, loss)
    assert relative(step.w, dw) < 1e-13
    assert relative(step.W_O, dW) < 1e-13


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_samples_beyond_the_hinge_count_for_nothing(backend):
    tokens, signs, v, w, W_O = replicas(1, 16, 10, 6, 8)
    objective = hinge_objective(tokens, signs, v, backend=backend)
    margins = objective.margins(w, W_O)
    W_O = W_O * (1.5 / margins[margins > 0].median())
    margins = objective.margins(w, W_O)
    inside = margins[0] < 1
    assert 0 < inside.sum() < 16
    step = objective.gradient(w, W_O)
    part = hinge_objective(tokens[:, inside], signs[:, inside], v, backend=backend)
    share = inside.float().mean()
    torch.testing.assert_close(step.W_O, share * part.gradient(w, W_O).W_O, rtol=1e-4, atol=1e-6)
    assert step.loss == pytest.approx(torch.relu(1 - margins).mean().item(), rel=1e-5)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_kept_replicas_compute_what_they_did(backend):
    tokens, signs, v, w, W_O = replicas(4, 70, 10, 6, 8)
    objective = hinge_objective(tokens, signs, v, backend=backend)
    kept = torch.tensor([1, 3])
    whole, part = objective.gradient(w, W_O), objective.keep(kept).gradient(w[kept], W_O[kept])
    torch.testing.assert_close(part.w, whole.w[kept], rtol=1e-5, atol=1e-7)
    if backend == "numba":
        assert torch.equal(part.w, whole.w[kept])
        assert torch.equal(part.W_O, whole.W_O[kept])


def test_backends_that_cannot_run_are_refused():
    tokens, signs, v, _, _ = replicas(1, 4, 4, 4, 2)
    with pytest.raises(InputError, match="torch, numba or triton"):
        hinge_objective(tokens, signs, v, backend="jax")
    with pytest.raises(InputError, match="float32 tokens on the CPU"):
        hinge_objective(tokens.double(), signs, v, backend="numba")
    with pytest.raises(InputError, match="NVIDIA GPU"):
        hinge_objective(tokens, signs, v, backend="triton")


_INTERPRETED = """
import torch
from test_gated_gradient import by_autograd, relative, replicas
from keelback.dynamics.gradient.triton import agrees, triton_hinge
assert agrees(6, 5, 4, "cpu")
for shape in ((1, 18, 17, 20, 18), (2, 3, 7, 3, 2)):
    tokens, signs, v, w, W_O = replicas(*shape)
    loss, dw, dW = by_autograd(tokens, signs, w, W_O)
    objective = triton_hinge(tokens, signs, v, tokens @ tokens.mT)
    step = objective.gradient(w, W_O)
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=1e-6)
    assert relative(step.w, dw) < 1e-5
    assert relative(step.W_O, dW) < 1e-5
    torch.testing.assert_close(
        torch.relu(1 - objective.margins(w, W_O)).mean(1), step.loss, rtol=1e-6, atol=1e-6
    )
"""


def test_gpu_kernel_in_the_interpreter():
    run_interpreted(_INTERPRETED)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_kernel(shape):
    tokens, signs, v, w, W_O = replicas(*shape)
    loss, dw, dW = by_autograd(tokens, signs, w, W_O)
    on_gpu = [part.cuda() for part in (tokens, signs, v)]
    objective = hinge_objective(*on_gpu, backend="triton")
    step = objective.gradient(w.cuda(), W_O.cuda())
    torch.testing.assert_close(step.loss.cpu().double(), loss, rtol=1e-5, atol=1e-6)
    assert relative(step.w.cpu(), dw) < 1e-4
    assert relative(step.W_O.cpu(), dW) < 1e-4
    again = objective.gradient(w.cuda(), W_O.cuda())
    assert torch.equal(again.w, step.w)
