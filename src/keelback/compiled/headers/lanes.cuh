// Sums over the lanes of a warp, several at a time.
#pragma once

#include "numbers.cuh"

// Adds `kCount` values over the lanes whose numbers differ in the bits of `kMask` only. There are kLanes of
// them; the bits of kMask in a lane's number, from the lowest up, make its number l among them.
//
// Lane l is left with the sums of the values l, l + kLanes, ... in values[0], values[1], ... (where
// kCount < kLanes, of value l % kCount). Each exchange halves the number of values: one shuffle a value
// instead of log2(kLanes).
template <int kMask, int kCount, typename Number>
INLINE void transpose_sum(Number (&values)[kCount], int lane) {
  int count = kCount;
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
    if (!(kMask & bit)) continue;
    if (count > 1) {
      const bool upper = lane & bit;
      count /= 2;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        if (i >= count) break;
        const Number kept = upper ? values[2 * i + 1] : values[2 * i];
        const Number sent = upper ? values[2 * i] : values[2 * i + 1];
        values[i] = kept + exchange(sent, bit);
      }
    } else {
      values[0] += exchange(values[0], bit);
    }
  }
}
