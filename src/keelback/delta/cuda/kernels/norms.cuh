// The norms of rows of q and k, by the matrix unit.
#pragma once

#include "chunks.cuh"

constexpr float kNormEpsilon = 1e-6f;

// 16 rows, as left factors.
using Rows16 = Fragment[kKey / 16];

INLINE void load_rows(Rows16& rows, const Operand<kChunk, kKey>& of, int row_block, int lane) {
#pragma unroll
  for (int k = 0; k < kKey / 16; ++k) load_left(rows[k], of, row_block, k * 2, lane);
}

// The products of 16 rows with themselves.
using Squares = float[2][4];

INLINE void find_squares(Squares& squares, const Rows16& rows) {
  clear(reinterpret_cast<Sums<1>&>(squares));
#pragma unroll
  for (int k = 0; k < kKey / 16; ++k) {
    Fragment turned;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
#pragma unroll
      for (int i = 0; i < 4; ++i) turned.at[p][i] = rows[k].at[p][i % 2 * 2 + i / 2];
    multiply(squares, rows[k], turned);
  }
}

// What 16 rows are multiplied by: one over their norms, if they are to be normalised.
INLINE void keep_factors(float* factors, const Squares& squares, float scale, const Seat& seat) {
  if (seat.column / 2 != seat.row / 2) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float square = seat.row % 2 ? squares[i][i * 2 + 1] : squares[i][i * 2];
    factors[i * 8 + seat.row] = kNormalise ? scale * reciprocal_root(square + kNormEpsilon) : scale;
  }
}
