// The weights of a channel, wherever they lie and however they are stored.
#pragma once

#include "configuration.h"
#include "numbers.cuh"

// Counts elements: times a row or a channel, strides may need 64 bits.
using Index = long long;

template <typename T>
INLINE Real value(const T* from) {
  return reinterpret_cast<const Packed<T, 1>*>(from)->at(0);
}

// A few numbers, which move at once where they lie in one piece.
template <bool kInPiece, int kCount, typename T>
INLINE void load(const T* from, Index stride, Real* to) {
  if constexpr (kInPiece) {
    const Packed<T, kCount> piece = *reinterpret_cast<const Packed<T, kCount>*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = piece.at(i);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = value(from + i * stride);
  }
}

template <bool kInPiece, int kCount, typename T>
INLINE void store(T* to, Index stride, const Real* from) {
  if constexpr (kInPiece) {
    Pack<Real, kCount> numbers;
#pragma unroll
    for (int i = 0; i < kCount; ++i) numbers.at[i] = from[i];
    reinterpret_cast<Packed<T, kCount>*>(to)->set(numbers);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) reinterpret_cast<Packed<T, 1>*>(to + i * stride)->set(Pack<Real, 1>{{from[i]}});
  }
}
