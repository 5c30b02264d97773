// The norms of rows of q and k.
#pragma once

#include "chunks.cuh"

constexpr float kNormEpsilon = 1e-6f;

// What the rows of a tile are multiplied by: one over their norms, if they are to be normalised. Four lanes have a row.
INLINE float factor_of_row(const Operand<kChunk, kKey>& tile, int row, int quarter) {
  if constexpr (!kNormalise) return 1.0f;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kKey / 32; ++i) {
    Pack<unsigned, 4> pieces[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      pieces[p] = *reinterpret_cast<const Pack<unsigned, 4>*>(tile.row(p, row / 8, i * 4 + quarter, row % 8));
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      Words words;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) words.plane[p] = pieces[p].at[pair];
      sum += words.low() * words.low() + words.high() * words.high();
    }
  }
  return 1.0f / sqrtf(sum_of_quad(sum) + kNormEpsilon);
}
