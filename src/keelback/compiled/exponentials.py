"""Exponentials on vectors, branch-free: exp2, softplus and the logistic function.

`exp2` splits x into the nearest integer k and f = x - k in [-1/2, 1/2], evaluates 2^(f+1) by a
polynomial and multiplies by 2^(k-1). The integer is read off the bits of x + 1.5 * 2^m (m = 23 or
52), which also makes it the exponent field of the scale. At the upper clamp the scale is 2^127
(2^1023) and the product overflows to inf; at the lower clamp its bits are all zero and the
product is zero. A nan passes through. Results below the smallest normal number are flushed to
zero. The error is below one unit in the last place elsewhere.

The coefficients are near-minimax (Chebyshev fits at 60 digits): of (2^f - 1) / f on [-1/2, 1/2],
and of 2 artanh(s) / s in s^2 on [0, 1/9] for log(1 + y) = 2 artanh(y / (2 + y)), y in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from keelback.compiled.simd import (
    call_elementwise,
    constant,
    integer_vector,
    intrinsic,
    llvm_vector,
)

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
# As in torch.nn.functional.softplus: above this, softplus is the identity.
SOFTPLUS_THRESHOLD = 20.0

_EXP2 = {
    32: (0.693147188, 0.2402265076, 0.05550357114, 0.009618082557, 0.001339086336, 0.0001545316295),
    64: (
        0.69314718055994530942,
        0.2402265069591009822,
        0.055504108664821594339,
        0.0096181291076068885273,
        0.001333355814641693531,
        0.00015403530441736050155,
        0.000015252733829836118394,
        1.3215442587921689653e-6,
        1.0178062445845773521e-7,
        7.0725859492692236999e-9,
        4.4549605981865183938e-10,
    ),
}
_ARTANH = {
    32: (2.000000008, 0.6666632164, 0.4002459523, 0.2796515775, 0.2815777836),
    64: (
        2.0000000000000000024,
        0.66666666666666149594,
        0.40000000000185747468,
        0.28571428545454114534,
        0.22222224080747673173,
        0.1818174083250480451,
        0.15386614042304007762,
        0.13300374032674624337,
        0.12110168728069217655,
        0.083245065118608205757,
        0.17044163562781398129,
    ),
}
# Explicit mantissa bits, and the largest exponent.
_FORMAT = {32: (23, 127), 64: (52, 1023)}


def _horner(builder: ir.IRBuilder, coefficients: Sequence[float], x: ir.Value) -> ir.Value:
    value = constant(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = call_elementwise(
            builder, "fmuladd", x.type, value, x, constant(x.type, coefficient)
        )
    return value


def _exp2(builder: ir.IRBuilder, scalar: types.Float, x: ir.Value) -> ir.Value:
    vector = llvm_vector(scalar)
    mantissa, largest = _FORMAT[scalar.bitwidth]
    upper, lower = constant(vector, float(largest + 1)), constant(vector, float(1 - largest))
    x = builder.select(builder.fcmp_ordered(">", x, upper), upper, x)
    x = builder.select(builder.fcmp_ordered("<", x, lower), lower, x)
    magic = constant(vector, 1.5 * 2.0**mantissa + largest - 1)
    shifted = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(shifted, magic))
    doubled = [2.0] + [2.0 * coefficient for coefficient in _EXP2[scalar.bitwidth]]
    power = _horner(builder, doubled, fraction)
    integers = integer_vector(scalar)
    bits = builder.shl(builder.bitcast(shifted, integers), constant(integers, mantissa))
    return builder.fmul(power, builder.bitcast(bits, vector))


def _exp_of_minus_abs(builder: ir.IRBuilder, scalar: types.Float, x: ir.Value) -> ir.Value:
    magnitude = call_elementwise(builder, "fabs", x.type, x)
    return _exp2(builder, scalar, builder.fmul(magnitude, constant(x.type, -LOG2_E)))


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """`2 ** x`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _exp2(builder, signature.return_type.scalar, args[0])

    return x(x), codegen


@intrinsic
def softplus(typingctx: Any, x: Any) -> Any:
    """`log(1 + exp(x))`, and x itself above 20."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar, value = signature.return_type.scalar, args[0]
        two, zero = constant(value.type, 2.0), constant(value.type, 0.0)
        small = _exp_of_minus_abs(builder, scalar, value)
        ratio = builder.fdiv(small, builder.fadd(small, two))
        series = _horner(builder, _ARTANH[scalar.bitwidth], builder.fmul(ratio, ratio))
        positive = builder.fcmp_unordered(">", value, zero)
        rectified = builder.select(positive, value, zero)
        result = call_elementwise(builder, "fmuladd", value.type, ratio, series, rectified)
        above = builder.fcmp_ordered(">", value, constant(value.type, SOFTPLUS_THRESHOLD))
        return builder.select(above, value, result)

    return x(x), codegen


def _logistic(builder: ir.IRBuilder, scalar: types.Float, x: ir.Value) -> ir.Value:
    one, zero = constant(x.type, 1.0), constant(x.type, 0.0)
    small = _exp_of_minus_abs(builder, scalar, x)
    numerator = builder.select(builder.fcmp_ordered("<", x, zero), small, one)
    return builder.fdiv(numerator, builder.fadd(one, small))


@intrinsic
def logistic(typingctx: Any, x: Any) -> Any:
    """`1 / (1 + exp(-x))`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _logistic(builder, signature.return_type.scalar, args[0])

    return x(x), codegen


@intrinsic
def softplus_slope(typingctx: Any, x: Any) -> Any:
    """The derivative of `softplus`: the logistic function, and 1 above 20."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        slope = _logistic(builder, signature.return_type.scalar, value)
        above = builder.fcmp_ordered(">", value, constant(value.type, SOFTPLUS_THRESHOLD))
        return builder.select(above, constant(value.type, 1.0), slope)

    return x(x), codegen
