// Numbers: how values are stored, what they are computed in, and the exponentials.
// The tests compile the same source for the host, where tests/scan_cuda/intrinsics.h stands in for intrinsics.h.
#pragma once

#include "intrinsics.h"

// Sixteen-bit storage types, which are only ever read and written in packs.
struct BFloat16 {
  unsigned short bits;
};

struct Float16 {
  unsigned short bits;
};

// Consecutive values that move in one access.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};

// Packs as they lie in global memory, to be widened value by value.
template <typename Stored, int kCount>
struct alignas(sizeof(Stored) * kCount) Packed {
  Stored values[kCount];

  INLINE Stored at(int i) const { return values[i]; }
  INLINE void set(const Pack<Stored, kCount>& from) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = from.at[i];
  }
  INLINE void fill(Stored value) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = value;
  }
};

// Two sixteen-bit values to a word.
template <typename Format, int kCount>
struct alignas(2 * kCount) PackedHalves {
  unsigned words[kCount / 2];

  INLINE float at(int i) const { return i % 2 ? widen_high(Format(), words[i / 2]) : widen_low(Format(), words[i / 2]); }
  INLINE void set(const Pack<float, kCount>& from) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) words[i] = narrow(Format(), from.at[2 * i], from.at[2 * i + 1]);
  }
  INLINE void fill(Format value) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) words[i] = value.bits * 0x10001u;
  }
};

template <typename Format>
struct PackedHalf {
  unsigned short bits;

  INLINE float at(int) const { return widen_low(Format(), bits); }
  INLINE void set(const Pack<float, 1>& from) { bits = static_cast<unsigned short>(narrow(Format(), from.at[0], 0.0f)); }
  INLINE void fill(Format value) { bits = value.bits; }
};

INLINE float widen_low(BFloat16, unsigned word) { return float_of_bits(word << 16); }
INLINE float widen_high(BFloat16, unsigned word) { return float_of_bits(word & 0xffff0000u); }
INLINE unsigned narrow(BFloat16, float low, float high) { return floats_to_bfloats(low, high); }
INLINE float widen_low(Float16, unsigned word) { return half_to_float(static_cast<unsigned short>(word)); }
INLINE float widen_high(Float16, unsigned word) { return half_to_float(static_cast<unsigned short>(word >> 16)); }
INLINE unsigned narrow(Float16, float low, float high) { return floats_to_halves(low, high); }

template <int kCount>
struct Packed<BFloat16, kCount> : PackedHalves<BFloat16, kCount> {};
template <int kCount>
struct Packed<Float16, kCount> : PackedHalves<Float16, kCount> {};
template <>
struct Packed<BFloat16, 1> : PackedHalf<BFloat16> {};
template <>
struct Packed<Float16, 1> : PackedHalf<Float16> {};

// 2^x. In single precision the special-function unit's: 2 ulp, and zero below 2^-126.
INLINE float power_of_two(float x) { return fast_exp2(x); }
INLINE double power_of_two(double x) { return exp2(x); }

// The same by the multiply-add units, to 1.7e-7 of itself, for where the special-function units have too much to
// do: 2^n times a minimax polynomial of 2^f, where x = n + f. The sum with 3 * 2^22 has n in its lowest bits.
INLINE float polynomial_power_of_two(float x) {
  constexpr float kShift = 12582912.0f;
  constexpr float kCoefficients[] = {0.00967151299f, 0.0555073358f, 0.240222424f, 0.693147004f, 1.0f};
  x = smaller(larger(x, -127.0f), 128.0f);  // Zero and infinity lie there.
  const float shifted = x + kShift, f = x - (shifted - kShift);
  float sum = 0.00132647273f;
#pragma unroll
  for (int i = 0; i < 5; ++i) sum = fused(sum, f, kCoefficients[i]);
  return float_of_bits(bits_of_float(sum) + (bits_of_float(shifted) << 23));
}
INLINE double polynomial_power_of_two(double x) { return power_of_two(x); }

INLINE float reciprocal(float x) { return fast_reciprocal(x); }
INLINE double reciprocal(double x) { return 1.0 / x; }

constexpr double kLog2OfE = 1.442695040888963407359924681;
constexpr double kLogOf2 = 0.693147180559945309417232121;

template <typename Number>
INLINE Number exponential(Number x) {
  return power_of_two(x * Number(kLog2OfE));
}

INLINE double log1p_of_unit(double e) { return log1p(e); }

// log(1 + e) for 0 <= e <= 1, to 2e-7 of itself: e times a minimax polynomial of log(1 + e) / e.
INLINE float log1p_of_unit(float e) {
  constexpr float kCoefficients[] = {-0.029505213723f, 0.078225910664f, -0.136632427573f, 0.191060051322f,
                                     -0.248429819942f, 0.333190977573f, -0.499994933605f, 0.999999940395f};
  float sum = 0.005232688038f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fused(sum, e, kCoefficients[i]);
  return e * sum;
}

// 1 / (1 + e^-x)
template <typename Number>
INLINE Number sigmoid(Number x) {
  Number e = exponential(-magnitude(x));
  Number r = reciprocal(Number(1) + e);
  return x < Number(0) ? e * r : r;
}

// log(1 + e^x) without overflow, accurate also where it is small.
template <typename Number>
INLINE Number softplus(Number x) {
  return larger(x, Number(0)) + log1p_of_unit(exponential(-magnitude(x)));
}
