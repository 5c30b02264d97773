// The inverse of a unit lower triangular matrix with a row and a column per step of a chunk, by a block of threads in float32.
#pragma once

#include "chunks.cuh"

// Rows of floats, which begin in different banks.
using Rows = float[kChunk][kChunk + 4];

// The blocks of T on the diagonal: a thread has a column of 16, whose rows are those of the unit matrix less those before
// them, by what a row of `lower` holds.
INLINE void find_diagonal(Rows& inverse, const Rows& lower, int thread) {
  const int first = thread / 16 * 16, column = thread % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sum = i == column ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < (i + 3) / 4; ++j) {
      const Pack<float, 4> four = *reinterpret_cast<const Pack<float, 4>*>(&lower[first + i][first + j * 4]);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        if (j * 4 + m < i) sum -= four.at[m] * x[j * 4 + m];
      }
    }
    x[i] = i < column ? 0.0f : sum;
    inverse[first + i][first + column] = x[i];
  }
}

// Sums (16, 8) += left right for a left factor (16, 8) and a right one (8, 8), whose rows begin at these addresses. The
// matrix unit keeps 11 bits of a factor: each is the sum of two that it keeps, and what is lost is as small as rounding. The
// three products have sums of their own, and wait less for each other.
INLINE void add_precisely(float (&sums)[3][4], const float* left, const float* right, int lane) {
  constexpr int kPitch = sizeof(Rows) / kChunk / 4;
  const int row = lane / 4, column = lane % 4;
  float leads[4], rests[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = left[(row + i % 2 * 8) * kPitch + column + i / 2 * 4];
    leads[i] = leading_part(x), rests[i] = x - leads[i];
  }
  const float first = right[column * kPitch + row], second = right[(column + 4) * kPitch + row];
  const float leads_right[2] = {leading_part(first), leading_part(second)};
  multiply_matrices(sums[0], rests, leads_right[0], leads_right[1], false);
  multiply_matrices(sums[1], leads, first - leads_right[0], second - leads_right[1], false);
  multiply_matrices(sums[2], leads, leads_right[0], leads_right[1], false);
}

// to (kWidth, kWidth) = sign left right, for as many blocks as there are pairs of that width on the diagonal; a warp has 16
// rows of 8 columns at a time. One factor is an inverse, of which what lies above its blocks on the diagonal does not count.
template <int kThreads, int kWidth, bool kLeftIsInverse>
INLINE void multiply_blocks(Rows& to, int to_row, int to_column, const Rows& left, int left_row, int left_column,
                            const Rows& right, int right_row, int right_column, float sign, int thread) {
  constexpr int kPieces = kWidth / 16 * (kWidth / 8);
  const int lane = thread % 32;
  const Seat seat(lane);
  for (int piece = uniform(thread / 32); piece < kChunk / (2 * kWidth) * kPieces; piece += kThreads / 32) {
    const int first = piece / kPieces * 2 * kWidth, row = piece % kPieces / (kWidth / 8) * 16, column = piece % (kWidth / 8) * 8;
    float sums[3][4] = {};
    const int begin = kLeftIsInverse ? 0 : column / 16 * 16, end = kLeftIsInverse ? row + 16 : kWidth;
    for (int k = begin; k < end; k += 16)
#pragma unroll
      for (int half = k; half < k + 16; half += 8) {
        add_precisely(sums, &left[first + left_row + row][first + left_column + half],
                      &right[first + right_row + half][first + right_column + column], lane);
      }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[2][i] = sign * (sums[2][i] + (sums[0][i] + sums[1][i]));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float* pair = &to[first + to_row + row + i * 8 + seat.row][first + to_column + column + seat.column];
      *reinterpret_cast<Pack<float, 2>*>(pair) = Pack<float, 2>{{sums[2][i * 2], sums[2][i * 2 + 1]}};
    }
  }
}

// Two inverses on the diagonal become one of twice the width: below the first lies -second lower first. What is between
// the two products takes the place above the diagonal, where nothing is.
template <int kThreads, int kWidth>
INLINE void join_inverses(Rows& inverse, const Rows& lower, int thread) {
  if constexpr (kWidth < kChunk) {
    multiply_blocks<kThreads, kWidth, false>(inverse, 0, kWidth, lower, kWidth, 0, inverse, 0, 0, 1.0f, thread);
    synchronize_block();
    multiply_blocks<kThreads, kWidth, true>(inverse, kWidth, 0, inverse, kWidth, kWidth, inverse, 0, kWidth, -1.0f, thread);
    synchronize_block();
    join_inverses<kThreads, 2 * kWidth>(inverse, lower, thread);
  }
}
