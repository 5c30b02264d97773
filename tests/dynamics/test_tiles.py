"""Products by tiles against NumPy in float64, with strides, transposes and empty sums."""

import numpy as np
import pytest

from keelback.compiled.tiles import LANES, TILE_ROWS, add_product, prefetch, product


def matrices(rows, inner, columns, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((rows, inner)).astype(np.float32),
        rng.standard_normal((inner, columns)).astype(np.float32),
        rng.standard_normal((rows, columns)).astype(np.float32),
    )


@pytest.mark.parametrize("rows", [TILE_ROWS, 3 * TILE_ROWS])
@pytest.mark.parametrize("inner", [1, 7, 32])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5])
def test_products_are_those_of_float64(rows, inner, vectors):
    columns = vectors * LANES
    A, B, C = matrices(rows, inner, columns)
    exact = A.astype(np.float64) @ B.astype(np.float64)
    before = C.copy()
    add_product(A, 0, inner, 1, inner, B, 0, columns, C, 0, columns, (rows, columns))
    np.testing.assert_allclose(C, before + exact, rtol=0, atol=1e-5)
    product(A, 0, inner, 1, inner, B, 0, columns, C, 0, columns, (rows, columns))
    np.testing.assert_allclose(C, exact, rtol=0, atol=1e-5)


def test_a_transposed_part_of_a_matrix_is_read_and_only_the_part_asked_for_is_written():
    A, B, C = matrices(40, 24, 3 * LANES)
    before = C.copy()
    shape = (TILE_ROWS, LANES)
    inner, a_row, a_column = 10, 1, 24
    product(
        A, 2 * 24 + 3, a_row, a_column, inner,
        B, LANES, 3 * LANES, C, 4 * 3 * LANES + LANES, 3 * LANES, shape,
    )  # fmt: skip
    part = A[2 : 2 + inner, 3 : 3 + TILE_ROWS].T.astype(np.float64)
    before[4 : 4 + TILE_ROWS, LANES : 2 * LANES] = part @ B[:inner, LANES : 2 * LANES]
    np.testing.assert_allclose(C, before, rtol=0, atol=1e-5)


def test_an_empty_sum_is_zero_or_changes_nothing():
    A, B, C = matrices(TILE_ROWS, 4, LANES)
    before = C.copy()
    add_product(A, 0, 4, 1, 0, B, 0, LANES, C, 0, LANES, C.shape)
    np.testing.assert_array_equal(C, before)
    product(A, 0, 4, 1, 0, B, 0, LANES, C, 0, LANES, C.shape)
    np.testing.assert_array_equal(C, 0)


def test_infinities_and_nans_stay():
    A, B, C = matrices(TILE_ROWS, 4, LANES)
    A[0, 0], A[1, 0] = np.inf, np.nan
    product(A, 0, 4, 1, 4, B, 0, LANES, C, 0, LANES, C.shape)
    assert np.isinf(C[0]).all()
    assert np.isnan(C[1]).all()
    assert np.isfinite(C[2:]).all()


def test_prefetching_reads_nothing():
    A = np.zeros((2, 8), np.float32)
    prefetch(A, 0, A.size)
