"""Runs of fewer lanes than a vector has: moved between memory and scratch, spread, added up."""

# mypy: allow-untyped-calls

from typing import Any

from llvmlite import ir
from numba.core import types

from keelback.compiled import LANES
from keelback.compiled.simd import (
    broadcast,
    element_pointer,
    intrinsic,
    llvm_scalar,
    llvm_vector,
)

_PLACES = ir.VectorType(ir.IntType(32), LANES)


def _spread(position: int) -> Any:
    places = [lane // 4 * 4 + position for lane in range(LANES)]

    @intrinsic
    def spread(typingctx: Any, a: Any) -> Any:
        """Copy one lane of each aligned run of four to the whole run."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.shuffle_vector(args[0], args[0], ir.Constant(_PLACES, places))

        return a(a), codegen

    return spread


spread_0, spread_1, spread_2, spread_3 = map(_spread, range(4))


@intrinsic
def add_pairs(typingctx: Any, a: Any, b: Any) -> Any:
    """In each run of four lanes, the two sums of neighbours in a, then those in b."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        runs = range(0, LANES, 4)
        even = [run + i for run in runs for i in (0, 2, LANES, LANES + 2)]
        odd = [place + 1 for place in even]
        halves = [builder.shuffle_vector(*args, ir.Constant(_PLACES, x)) for x in (even, odd)]
        return builder.fadd(*halves)

    return a(a, b), codegen


def run_pointers(
    context: Any, builder: Any, signature: Any, args: Any, lanes: int
) -> tuple[ir.Value, ir.Value, int]:
    """Pointers to a run of lanes in scratch and in memory, and the bytes of one lane."""
    scalar = signature.args[0].dtype
    run = ir.VectorType(llvm_scalar(scalar), lanes)
    inside = element_pointer(context, builder, signature, args, run)
    outside = builder.inttoptr(args[2], run.as_pointer())
    return inside, outside, scalar.bitwidth // 8


def _copy_in(lanes: int) -> Any:
    @intrinsic
    def copy_in(typingctx: Any, scratch: Any, index: Any, address: Any) -> Any:
        """Copy a short run of floats from memory into scratch."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            inside, outside, align = run_pointers(context, builder, signature, args, lanes)
            builder.store(builder.load(outside, align=align), inside, align=align)
            return context.get_dummy_value()

        return types.void(scratch, types.intp, types.intp), codegen

    return copy_in


def _copy_out(lanes: int) -> Any:
    @intrinsic
    def copy_out(typingctx: Any, scratch: Any, index: Any, address: Any) -> Any:
        """Copy a short run of floats from scratch into memory."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            inside, outside, align = run_pointers(context, builder, signature, args, lanes)
            builder.store(builder.load(inside, align=align), outside, align=align)
            return context.get_dummy_value()

        return types.void(scratch, types.intp, types.intp), codegen

    return copy_out


def _repeat(lanes: int) -> Any:
    @intrinsic
    def repeat(typingctx: Any, scratch: Any, index: Any, value: Any) -> Any:
        """Write one float to a short run of scratch."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            run = ir.VectorType(args[2].type, lanes)
            pointer = element_pointer(context, builder, signature, args, run)
            align = signature.args[2].bitwidth // 8
            builder.store(broadcast(builder, args[2], lanes), pointer, align=align)
            return context.get_dummy_value()

        return types.void(scratch, types.intp, value), codegen

    return repeat


def _part(index: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), 4), list(range(4 * index, 4 * index + 4)))


@intrinsic
def gather_runs(
    typingctx: Any, scratch: Any, index: Any, first: Any, second: Any, third: Any, fourth: Any
) -> Any:
    """Copy four runs of four floats from memory into one row of scratch."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.args[0].dtype
        run = ir.VectorType(llvm_scalar(scalar), 4)
        align = scalar.bitwidth // 8
        runs = [
            builder.load(builder.inttoptr(address, run.as_pointer()), align=align)
            for address in args[2:]
        ]
        eight = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8)))
        sixteen = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES)))
        halves = [builder.shuffle_vector(*pair, eight) for pair in (runs[:2], runs[2:])]
        row = builder.shuffle_vector(*halves, sixteen)
        pointer = element_pointer(context, builder, signature, args, row.type)
        builder.store(row, pointer, align=align)
        return context.get_dummy_value()

    return types.void(scratch, types.intp, *(types.intp,) * 4), codegen


@intrinsic
def scatter_runs(
    typingctx: Any, scratch: Any, index: Any, first: Any, second: Any, third: Any, fourth: Any
) -> Any:
    """Copy one row of scratch to four runs of four floats in memory."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.args[0].dtype
        run = ir.VectorType(llvm_scalar(scalar), 4)
        align = scalar.bitwidth // 8
        pointer = element_pointer(context, builder, signature, args, llvm_vector(scalar))
        row = builder.load(pointer, align=align)
        for i, address in enumerate(args[2:]):
            part = builder.shuffle_vector(row, row, _part(i))
            builder.store(part, builder.inttoptr(address, run.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(scratch, types.intp, *(types.intp,) * 4), codegen


_SHORT = (1, 2, 4, 8)
copy_in_1, copy_in_2, copy_in_4, copy_in_8 = map(_copy_in, _SHORT)
copy_out_1, copy_out_2, copy_out_4, copy_out_8 = map(_copy_out, _SHORT)
repeat_1, repeat_2, repeat_4, repeat_8 = map(_repeat, _SHORT)


@intrinsic
def repeat_run(typingctx: Any, scratch: Any, index: Any, address: Any) -> Any:
    """Copy four floats from memory to every run of four lanes of a row of scratch."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        inside, outside, align = run_pointers(context, builder, signature, args, 4)
        run = builder.load(outside, align=align)
        places = ir.Constant(_PLACES, [lane % 4 for lane in range(LANES)])
        row = builder.shuffle_vector(run, run, places)
        builder.store(row, builder.bitcast(inside, row.type.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(scratch, types.intp, types.intp), codegen


@intrinsic
def sum_runs_to(typingctx: Any, scratch: Any, index: Any, address: Any, fresh: Any) -> Any:
    """Add up the runs of four lanes of a row, and write them to memory, or add them there."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        inside, outside, align = run_pointers(context, builder, signature, args, 4)
        row_type = ir.VectorType(inside.type.pointee.element, LANES)
        total = builder.load(builder.bitcast(inside, row_type.as_pointer()), align=align)
        for width in (LANES // 2, LANES // 4):
            halves = [
                ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                for start in (0, width)
            ]
            total = builder.fadd(*[builder.shuffle_vector(total, total, x) for x in halves])
        added = builder.fadd(total, builder.load(outside, align=align))
        builder.store(builder.select(args[3], total, added), outside, align=align)
        return context.get_dummy_value()

    return types.void(scratch, types.intp, types.intp, types.boolean), codegen
