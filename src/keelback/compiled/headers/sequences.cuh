// How the operands of chunked operators lie in memory, and single numbers of them.
#pragma once

#include "fragments.cuh"

// (row, time, head or group, number); numbers are adjacent, and every head starts at a multiple of 16 bytes.
struct Sequences {
  const Stored* at;
  Index row, time, head;

  INLINE const Stored* of(int of_row, int of_time, int of_head) const {
    return at + of_row * row + of_time * time + of_head * head;
  }
};

INLINE float widen(float x) { return x; }
template <typename Format>
INLINE float widen(Format x) {
  return widen_low(Format(), x.bits);
}

INLINE void store(float* to, float x) { *to = x; }
template <typename Format>
INLINE void store(Format* to, float x) {
  to->bits = static_cast<unsigned short>(narrow(Format(), x, 0.0f));
}

INLINE int least(int x, int y) { return x < y ? x : y; }

constexpr int kBlockNumbers = 64;  // of a block of 8 x 8
