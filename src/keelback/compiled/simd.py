"""A sixteen-lane vector type for Numba kernels, and the few operations that the scan needs on it.

Numba leaves vectorisation to LLVM's loop vectoriser, which gives up where it cannot prove that
two arrays do not overlap. Here vectors are first-class LLVM values instead: every operation is
one LLVM instruction on `<16 x float>` or `<16 x double>`, which LLVM splits into whatever
registers the machine has. No operation carries a flag that would let LLVM assume the absence of
inf or nan.

Memory is reached in two ways. Scratch is a flat C-contiguous array and an element index. Tensors
are byte addresses, with the scratch array passed along to say which floating type lies there.
"""

# mypy: allow-untyped-calls

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

from keelback.compiled import LANES

# To a type checker an intrinsic takes a typing context; in a kernel it does not.
intrinsic: Any = numba_intrinsic


class Vector(types.Type):
    """`LANES` floats, of the Numba scalar type `scalar`."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        super().__init__(name=f"Vector({scalar} x {LANES})")


class Mask(types.Type):
    """`LANES` booleans."""

    def __init__(self) -> None:
        super().__init__(name=f"Mask({LANES})")


def llvm_scalar(scalar: types.Float) -> ir.Type:
    """The LLVM type of a Numba float."""
    return ir.FloatType() if scalar.bitwidth == 32 else ir.DoubleType()


def llvm_vector(scalar: types.Float) -> ir.VectorType:
    """The LLVM type of a `Vector` of that scalar."""
    return ir.VectorType(llvm_scalar(scalar), LANES)


def integer_vector(scalar: types.Float) -> ir.VectorType:
    """The LLVM vector of integers as wide as that scalar."""
    return ir.VectorType(ir.IntType(scalar.bitwidth), LANES)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_vector(vector.scalar))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, mask: Mask) -> None:
        super().__init__(manager, mask, ir.VectorType(ir.IntType(1), LANES))


def constant(vector_type: ir.VectorType, value: Any) -> ir.Constant:
    """The LLVM vector whose lanes all hold `value`."""
    return ir.Constant(vector_type, [value] * LANES)


def _bits(vector_type: ir.VectorType) -> int:
    return 32 if isinstance(vector_type.element, ir.FloatType) else 64


def call_elementwise(
    builder: ir.IRBuilder, name: str, vector_type: ir.VectorType, *arguments: ir.Value
) -> ir.Value:
    """Call the LLVM intrinsic `llvm.<name>` for that vector type."""
    suffix = f"v{LANES}f{_bits(vector_type)}"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector_type, [vector_type] * len(arguments)),
        f"llvm.{name}.{suffix}",
    )
    return builder.call(function, arguments)


def broadcast(builder: ir.IRBuilder, value: ir.Value, lanes: int = LANES) -> ir.Value:
    """An LLVM vector whose lanes all hold the scalar `value`."""
    vector_type = ir.VectorType(value.type, lanes)
    single = builder.insert_element(
        ir.Constant(vector_type, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(single, ir.Constant(vector_type, ir.Undefined), zeros)


def element_pointer(
    context: Any, builder: Any, signature: Any, args: Any, target: ir.Type
) -> ir.Value:
    """The address of element `args[1]` of the array `args[0]`, as a pointer to `target`."""
    array = context.make_array(signature.args[0])(context, builder, value=args[0])
    return builder.bitcast(builder.gep(array.data, [args[1]]), target.as_pointer())


@intrinsic
def load(typingctx: Any, scratch: Any, index: Any) -> Any:
    """The vector that starts at element `index` of the flat array `scratch`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.return_type.scalar
        pointer = element_pointer(context, builder, signature, args, llvm_vector(scalar))
        return builder.load(pointer, align=scalar.bitwidth // 8)

    return Vector(scratch.dtype)(scratch, types.intp), codegen


@intrinsic
def store(typingctx: Any, scratch: Any, index: Any, vector: Any) -> Any:
    """Write `vector` from element `index` of the flat array `scratch` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.args[2].scalar
        pointer = element_pointer(context, builder, signature, args, llvm_vector(scalar))
        builder.store(args[2], pointer, align=scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(scratch, types.intp, vector), codegen


@intrinsic
def load_at(typingctx: Any, like: Any, address: Any) -> Any:
    """The vector of floats of `like`'s type at the byte `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.return_type.scalar
        pointer = builder.inttoptr(args[1], llvm_vector(scalar).as_pointer())
        return builder.load(pointer, align=scalar.bitwidth // 8)

    return Vector(like.dtype)(like, types.intp), codegen


def _masked_name(operation: str, vector: ir.VectorType) -> str:
    return f"llvm.masked.{operation}.v{LANES}f{_bits(vector)}.p0"


@intrinsic
def load_masked_at(typingctx: Any, like: Any, address: Any, mask: Any) -> Any:
    """`load_at` for the lanes of `mask` alone; the others are zero and their memory untouched."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.return_type.scalar
        vector = llvm_vector(scalar)
        pointer = builder.inttoptr(args[1], ir.PointerType())
        align = ir.IntType(32)(scalar.bitwidth // 8)
        types_ = [pointer.type, align.type, args[2].type, vector]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, types_), _masked_name("load", vector)
        )
        return builder.call(function, [pointer, align, args[2], constant(vector, 0.0)])

    return Vector(like.dtype)(like, types.intp, mask), codegen


@intrinsic
def store_masked_at(typingctx: Any, address: Any, vector: Any, mask: Any) -> Any:
    """`store_at` for the lanes of `mask` alone."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.args[1].scalar
        pointer = builder.inttoptr(args[0], ir.PointerType())
        align = ir.IntType(32)(scalar.bitwidth // 8)
        types_ = [args[1].type, pointer.type, align.type, args[2].type]
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), types_),
            _masked_name("store", args[1].type),
        )
        builder.call(function, [args[1], pointer, align, args[2]])
        return context.get_dummy_value()

    return types.void(types.intp, vector, mask), codegen


@intrinsic
def store_at(typingctx: Any, address: Any, vector: Any) -> Any:
    """Write `vector` at the byte `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = signature.args[1].scalar
        pointer = builder.inttoptr(args[0], llvm_vector(scalar).as_pointer())
        builder.store(args[1], pointer, align=scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.intp, vector), codegen


@intrinsic
def scalar_at(typingctx: Any, like: Any, address: Any) -> Any:
    """The one float of `like`'s type at the byte `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], llvm_scalar(signature.return_type).as_pointer())
        return builder.load(pointer)

    return like.dtype(like, types.intp), codegen


@intrinsic
def store_scalar_at(typingctx: Any, address: Any, value: Any) -> Any:
    """Write one float at the byte `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], llvm_scalar(signature.args[1]).as_pointer())
        builder.store(args[1], pointer)
        return context.get_dummy_value()

    return types.void(types.intp, value), codegen


@intrinsic
def byte_at(typingctx: Any, address: Any) -> Any:
    """The byte at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.intp), codegen


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """A vector whose lanes all hold the float `value`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return broadcast(builder, args[0])

    return Vector(value)(value), codegen


@intrinsic
def add(typingctx: Any, a: Any, b: Any) -> Any:
    """`a + b`."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def mul(typingctx: Any, a: Any, b: Any) -> Any:
    """`a * b`."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """`a * b + c`, rounded once where the machine can."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_elementwise(builder, "fmuladd", args[0].type, *args)

    return a(a, b, c), codegen


@intrinsic
def lanes_between(typingctx: Any, first: Any, stop: Any) -> Any:
    """The mask of the lanes `first` to `stop - 1`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integers = ir.VectorType(ir.IntType(64), LANES)
        lane = ir.Constant(integers, list(range(LANES)))
        first, stop = (broadcast(builder, x) for x in args)
        return builder.and_(
            builder.icmp_signed(">=", lane, first), builder.icmp_signed("<", lane, stop)
        )

    return Mask()(types.intp, types.intp), codegen


@intrinsic
def positive(typingctx: Any, a: Any) -> Any:
    """The mask of the lanes that are greater than zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_ordered(">", args[0], constant(args[0].type, 0.0))

    return Mask()(a), codegen


@intrinsic
def where(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """`a` in the lanes of `mask`, `b` in the others."""
    return a(mask, a, b), lambda context, builder, signature, args: builder.select(*args)


def _add_neighbour(distance: int) -> Any:
    swapped = [lane ^ distance for lane in range(LANES)]

    @intrinsic
    def add_neighbour(typingctx: Any, a: Any) -> Any:
        """Add to each lane the one whose number differs in the bit `distance`."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), swapped)
            return builder.fadd(args[0], builder.shuffle_vector(args[0], args[0], places))

        return a(a), codegen

    return add_neighbour


# After the first of these every lane holds the sum of its aligned pair, after the second that of
# its aligned run of four, after the third that of eight.
add_neighbour_1, add_neighbour_2, add_neighbour_4 = map(_add_neighbour, (1, 2, 4))


@intrinsic
def sum_lanes(typingctx: Any, a: Any) -> Any:
    """The sum of the lanes, added as a tree."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(
                    value,
                    value,
                    ir.Constant(
                        ir.VectorType(ir.IntType(32), width), list(range(start, start + width))
                    ),
                )
                for start in (0, width)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return a.scalar(a), codegen
