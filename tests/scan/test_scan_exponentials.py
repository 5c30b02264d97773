"""The vector exponentials against extended precision, and at the edges of the number line."""

import numpy as np
import pytest
from numba import njit

from keelback.compiled.exponentials import exp2, logistic, softplus, softplus_slope
from keelback.compiled.simd import LANES, load, store


def vectorised(function):
    @njit
    def apply(x, out):
        for i in range(0, x.size, LANES):
            store(out, i, function(load(x, i)))

    def call(x):
        out = np.empty_like(x)
        apply(x, out)
        return out

    return call


FUNCTIONS = {f.__name__: vectorised(f) for f in (exp2, logistic, softplus, softplus_slope)}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 20.0, 20.001, 1e30, -1e30] + [1.0] * 5


def exact(name: str, x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.longdouble)
    with np.errstate(over="ignore"):
        if name == "exp2":
            return np.exp2(wide)
        if name == "softplus":
            return np.where(x > 20, wide, np.log1p(np.exp(np.minimum(wide, 20))))
        slope = 1 / (1 + np.exp(-wide))
        return np.where(x > 20, 1, slope) if name == "softplus_slope" else slope


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "limit"), [("exp2", 1), ("softplus", 5), ("logistic", 5)])
def test_relative_error_in_units_of_the_epsilon(name: str, limit: float, dtype: type) -> None:
    reach = 120 if name == "exp2" else 8
    x = np.linspace(-reach, reach, 1 << 16).astype(dtype)
    error = np.abs(FUNCTIONS[name](x) / exact(name, x) - 1)
    assert error.max() < limit * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges(name: str, dtype: type) -> None:
    x = np.array(EDGES, dtype)
    np.testing.assert_allclose(
        FUNCTIONS[name](x), exact(name, x).astype(dtype), rtol=1e-6, atol=np.finfo(dtype).tiny
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_overflows_to_inf_and_underflows_to_zero(dtype: type) -> None:
    top = np.finfo(dtype).maxexp
    x = np.array([top, top + 0.5, 10.0 * top, top - 2.0**-10, -top + 3, -top + 1, -2 * top], dtype)
    result = FUNCTIONS["exp2"](np.resize(x, LANES))[:7]
    assert np.isposinf(result[:3]).all()
    assert np.isfinite(result[3])
    assert result[3] > np.finfo(dtype).max / 2
    assert result[4] == 2 * np.finfo(dtype).tiny
    assert (result[5:] == 0).all()


def test_exp2_is_exact_at_integers() -> None:
    x = np.arange(-64, 64).astype(np.float32)
    assert (FUNCTIONS["exp2"](x) == 2.0 ** x.astype(np.float64)).all()
