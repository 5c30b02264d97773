"""Products of small matrices in Numba kernels, tile by tile in vector registers.

Numba leaves vectorisation to LLVM, which keeps the sums of a matrix product in memory. Here a tile
of the result stays in registers over the whole inner dimension: a tile is one intrinsic that emits
vector operations.
"""

# mypy: allow-untyped-calls

from collections.abc import Callable
from typing import Any, no_type_check

import numba
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

from keelback.compiled import LANES

# To a type checker an intrinsic takes a typing context; in a kernel it does not.
intrinsic: Any = numba_intrinsic

_WIDE = bool(binding.get_host_cpu_features().get("avx512f"))

TILE_ROWS = 8 if _WIDE else 4
"""Rows of a tile: with two vectors a row it takes half of the registers."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_LONG = ir.IntType(64)


def _tile(vectors: int, add: bool) -> Any:
    """The intrinsic for tiles of so many vectors a row; with `add`, C += A B instead of C = A B."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        context, A, a_start, a_row, a_column, inner, B, b_start, b_row, C, c_start, c_row
    ):
        """C[r, :] from sum over k < inner of A[r, k] B[k, :], by element offsets and strides."""
        arrays = (0, 5, 8)
        given = (A, a_start, a_row, a_column, inner, B, b_start, b_row, C, c_start, c_row)
        taken = [kind if i in arrays else types.int64 for i, kind in enumerate(given)]

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            data = {
                i: context.make_array(signature.args[i])(context, builder, values[i]).data
                for i in arrays
            }
            _, a_start, a_row, a_column, inner, _, b_start, b_row, _, c_start, c_row = values
            places = [(r, v) for r in range(TILE_ROWS) for v in range(vectors)]

            def at(array: int, start: Any, row: Any, r: Any, offset: int = 0) -> Any:
                place = builder.add(start, builder.mul(row, r))
                return builder.gep(data[array], [builder.add(place, _LONG(offset))])

            def vector_at(array: int, start: Any, row: Any, r: Any, v: int) -> Any:
                pointer = at(array, start, row, r, v * LANES)
                return builder.bitcast(pointer, _VECTOR.as_pointer())

            targets = [vector_at(8, c_start, c_row, _LONG(r), v) for r, v in places]
            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            first = [builder.load(place, align=4) if add else zero for place in targets]
            before = builder.block
            loop = builder.append_basic_block("inner")
            after = builder.append_basic_block("sums")
            some = builder.icmp_signed(">", inner, _LONG(0))
            builder.cbranch(some, loop, after)
            builder.position_at_end(loop)
            k = builder.phi(_LONG)
            k.add_incoming(_LONG(0), before)
            sums = [builder.phi(_VECTOR) for _ in places]
            for total, value in zip(sums, first, strict=True):
                total.add_incoming(value, before)
            columns = [
                builder.load(vector_at(5, b_start, b_row, k, v), align=4) for v in range(vectors)
            ]
            begin = builder.add(a_start, builder.mul(a_column, k))
            factors = [
                _splat(builder, builder.load(at(0, begin, a_row, _LONG(r))))
                for r in range(TILE_ROWS)
            ]
            ended = [
                builder.fadd(
                    total,
                    builder.fmul(factors[r], columns[v], flags=("contract",)),
                    flags=("contract",),
                )
                for total, (r, v) in zip(sums, places, strict=True)
            ]
            following = builder.add(k, _LONG(1))
            k.add_incoming(following, loop)
            for total, value in zip(sums, ended, strict=True):
                total.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, inner), loop, after)
            builder.position_at_end(after)
            results = [builder.phi(_VECTOR) for _ in places]
            for result, start, value in zip(results, first, ended, strict=True):
                result.add_incoming(start, before)
                result.add_incoming(value, loop)
            for target, result in zip(targets, results, strict=True):
                builder.store(result, target, align=4)
            return context.get_dummy_value()

        return types.void(*taken), generate

    return tile


@intrinsic
def _prefetch(context: Any, array: Any, start: Any) -> Any:
    """Ask for the cache line of an element, which is about to be read."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        pointer = builder.bitcast(builder.gep(data, [values[1]]), byte)
        builder.call(call, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@numba.njit(nogil=True, error_model="numpy")
@no_type_check
def prefetch(array, start, count):
    """Ask for `count` elements of a contiguous float32 array from `start` on."""
    for place in range(start, start + count, LANES):
        _prefetch(array, place)


def _splat(builder: Any, value: Any) -> Any:
    """The vector whose lanes all hold `value`."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), lanes)


@intrinsic
def transpose_block(  # type: ignore[no-untyped-def]
    context, A, a_start, a_row, B, b_start, b_row
):
    """B[c, r] = A[r, c] for `LANES` rows and columns, by element offsets and strides of rows.

    The bits of the row's number are exchanged with those of the lane's, one after the other.
    """

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def pointer(array: int, r: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, values[array]).data
            start, row = values[array + 1], values[array + 2]
            place = builder.gep(data, [builder.add(start, builder.mul(row, _LONG(r)))])
            return builder.bitcast(place, _VECTOR.as_pointer())

        rows = [builder.load(pointer(0, r), align=4) for r in range(LANES)]
        bit = 1
        while bit < LANES:
            upper = [lane if not lane & bit else LANES + lane - bit for lane in range(LANES)]
            lower = [lane + bit if not lane & bit else LANES + lane for lane in range(LANES)]
            for r in range(LANES):
                if not r & bit:
                    pair = rows[r], rows[r + bit]
                    rows[r], rows[r + bit] = (
                        builder.shuffle_vector(
                            *pair, ir.Constant(ir.VectorType(ir.IntType(32), LANES), places)
                        )
                        for places in (upper, lower)
                    )
            bit *= 2
        for r in range(LANES):
            builder.store(rows[r], pointer(3, r), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(A, whole, whole, B, whole, whole), generate


def _product(add: bool) -> Callable[..., None]:
    one, two = _tile(1, add), _tile(2, add)
    pairs = 2 * LANES if _WIDE else 0

    @numba.njit(nogil=True, error_model="numpy")
    @no_type_check
    def product(A, a_start, a_row, a_column, inner, B, b_start, b_row, C, c_start, c_row, shape):
        rows, columns = shape
        for r in range(0, rows, TILE_ROWS):
            a, c = a_start + r * a_row, c_start + r * c_row
            column = 0
            while pairs and columns - column >= pairs:
                two(A, a, a_row, a_column, inner, B, b_start + column, b_row, C, c + column, c_row)
                column += pairs
            while column < columns:
                one(A, a, a_row, a_column, inner, B, b_start + column, b_row, C, c + column, c_row)
                column += LANES

    return product


product = _product(add=False)
"""C = A B over `shape` (rows, columns) of C: rows a multiple of `TILE_ROWS`, columns of `LANES`.

Matrices are contiguous float32 arrays of any shape, with the element at which the matrix starts and
strides in elements; the columns of B and C lie side by side.
"""

add_product = _product(add=True)
"""C += A B, likewise."""
