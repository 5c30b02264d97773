// Tiles in shared memory, and the pieces of them that the matrix unit multiplies.
//
// The matrix unit takes numbers of sixteen bits. float32 goes in as a sum of kPlanes of them, the first with the
// leading 8 bits, the next with those after, and a product as the sum of the products of planes that matter.
#pragma once

#include "configuration.h"
#include "matrix_intrinsics.h"

using Index = long long;

constexpr bool kHalf = sizeof(Stored) == 2;
static_assert(kHalf == (kPlanes == 1), "only float32 is split");

// Two numbers side by side in sixteen bits each, in every plane.
struct Words {
  unsigned plane[kPlanes];

  INLINE float low() const {
    float sum = widen_low(Element(), plane[kPlanes - 1]);
#pragma unroll
    for (int p = kPlanes - 2; p >= 0; --p) sum += widen_low(Element(), plane[p]);
    return sum;
  }
  INLINE float high() const {
    float sum = widen_high(Element(), plane[kPlanes - 1]);
#pragma unroll
    for (int p = kPlanes - 2; p >= 0; --p) sum += widen_high(Element(), plane[p]);
    return sum;
  }
};

// What a plane leaves of x; nothing of an infinite one.
INLINE float left_of(float x, float plane) { return x == plane ? 0.0f : x - plane; }

INLINE Words split(float low, float high) {
  Words words;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    words.plane[p] = narrow(Element(), low, high);
    if (p + 1 < kPlanes) {
      low = left_of(low, widen_low(Element(), words.plane[p]));
      high = left_of(high, widen_high(Element(), words.plane[p]));
    }
  }
  return words;
}

// Where a lane's four sums lie in a product of 16 x 8: rows `row` and row + 8, columns `column` and column + 1.
struct Seat {
  int row, column;

  INLINE explicit Seat(int lane) : row(lane / 4), column(lane % 4 * 2) {}
};

// A matrix in blocks of 8 x 8, each 128 bytes in a row, so that all accesses to a block are free of bank conflicts.
template <int kRows, int kColumns>
struct alignas(128) Tile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0, "the matrix unit multiplies 16 x 16");
  static constexpr int kColumnBlocks = kColumns / 8;
  static constexpr int kPieces = kRows * kColumnBlocks;  // rows of blocks, 16 bytes each

  unsigned short at[kPlanes][kPieces * 8];

  INLINE const unsigned short* row(int plane, int row_block, int column_block, int row) const {
    return &at[plane][((row_block * kColumnBlocks + column_block) * 8 + row) * 8];
  }

  // The two numbers of a block where a lane has its seat.
  INLINE Words pair(int row_block, int column_block, const Seat& seat) const {
    Words words;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      words.plane[p] = *reinterpret_cast<const unsigned*>(row(p, row_block, column_block, seat.row) + seat.column);
    }
    return words;
  }
  INLINE void set(int row_block, int column_block, const Seat& seat, const Words& words) {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      *reinterpret_cast<unsigned*>(
          &at[p][((row_block * kColumnBlocks + column_block) * 8 + seat.row) * 8 + seat.column]) = words.plane[p];
    }
  }
};

// A left factor, 16 x 16, or two right factors, 16 x 8, side by side.
struct Fragment {
  unsigned at[kPlanes][4];
};

template <bool kTransposed, bool kRowsFirst, int kRows, int kColumns>
INLINE void load_blocks(Fragment& to, const Tile<kRows, kColumns>& tile, int row_block, int column_block, int lane) {
  const int first = lane / 8 % 2, second = lane / 16;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    load_matrices<kTransposed>(to.at[p], tile.row(p, row_block + (kRowsFirst ? first : second),
                                                  column_block + (kRowsFirst ? second : first), lane % 8));
  }
}

// A left factor (m, k) out of a tile that holds it, or its transpose; blocks of 8 are counted.
template <int kRows, int kColumns>
INLINE void load_left(Fragment& to, const Tile<kRows, kColumns>& tile, int m, int k, int lane) {
  load_blocks<false, true>(to, tile, m, k, lane);
}
template <int kRows, int kColumns>
INLINE void load_left_transposed(Fragment& to, const Tile<kRows, kColumns>& tile, int k, int m, int lane) {
  load_blocks<true, false>(to, tile, k, m, lane);
}

// Right factors (k, n), for 16 columns n.
template <int kRows, int kColumns>
INLINE void load_right(Fragment& to, const Tile<kRows, kColumns>& tile, int k, int n, int lane) {
  load_blocks<true, true>(to, tile, k, n, lane);
}
template <int kRows, int kColumns>
INLINE void load_right_transposed(Fragment& to, const Tile<kRows, kColumns>& tile, int n, int k, int lane) {
  load_blocks<false, false>(to, tile, n, k, lane);
}

// sums (16, 16) += left (16, 16) right (16, 16)
INLINE void multiply(float (&sums)[2][4], const Fragment& left, const Fragment& right) {
#pragma unroll
  for (int order = kPlanes - 1; order >= 0; --order) {
#pragma unroll
    for (int p = 0; p <= order; ++p) {
      multiply_words(Element(), sums[0], left.at[p], right.at[order - p][0], right.at[order - p][1]);
      multiply_words(Element(), sums[1], left.at[p], right.at[order - p][2], right.at[order - p][3]);
    }
  }
}

// Sums of products: 16 rows of a warp, 16 columns each.
template <int kTiles>
using Sums = float[kTiles][2][4];

template <int kTiles>
INLINE void clear(float (&sums)[kTiles][2][4]) {
#pragma unroll
  for (int i = 0; i < kTiles * 8; ++i) sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
}

template <int kTiles>
INLINE float (&flat(float (&sums)[kTiles][2][4]))[kTiles * 8] {
  return reinterpret_cast<float(&)[kTiles * 8]>(sums);
}

// sums += left right for several left factors, the right one (16, 16 kTiles) being that from block (k, n) of a tile; or,
// if transposed, from block (n, k) of its transpose.
template <bool kTransposed, int kLefts, int kTiles, int kRows, int kColumns>
INLINE void add_products(float (&sums)[kLefts][kTiles][2][4], const Fragment (&left)[kLefts],
                         const Tile<kRows, kColumns>& right, int k, int n, int lane) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    Fragment factor;
    if constexpr (kTransposed) load_right_transposed(factor, right, n + tile * 2, k, lane);
    else load_right(factor, right, k, n + tile * 2, lane);
#pragma unroll
    for (int m = 0; m < kLefts; ++m) multiply(sums[m][tile], left[m], factor);
  }
}
template <bool kTransposed, int kTiles, int kRows, int kColumns>
INLINE void add_product(float (&sums)[kTiles][2][4], const Fragment& left, const Tile<kRows, kColumns>& right, int k, int n,
                        int lane) {
  add_products<kTransposed>(reinterpret_cast<float(&)[1][kTiles][2][4]>(sums),
                            reinterpret_cast<const Fragment(&)[1]>(left), right, k, n, lane);
}

// Waits for the copies to shared memory of all but kLeft groups, of all threads of the block.
template <int kLeft>
INLINE void arrive_with_copies() {
  wait_for_copies<kLeft>();
  synchronize_block();
}

// The left factor times a number for each of the lane's rows.
INLINE void scale_rows(Fragment& left, float of_row, float of_eighth) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float factor = i % 2 ? of_eighth : of_row;
    Words words;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) words.plane[p] = left.at[p][i];
    const Words scaled = split(words.low() * factor, words.high() * factor);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) left.at[p][i] = scaled.plane[p];
  }
}

// What rounding took from two numbers, of which `words` are left.
INLINE Words lost_by(const Words& words, float low, float high) {
  return split(left_of(low, words.low()), left_of(high, words.high()));
}

// The left factor, in half precision, times a number of each of its columns; `rest` is what rounding takes from that.
INLINE void scale_columns_in_two(Fragment& left, Fragment& rest, const float* factors, const Seat& seat) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Pack<float, 2> pair = *reinterpret_cast<const Pack<float, 2>*>(factors + i / 2 * 8 + seat.column);
    const Words words = {{left.at[0][i]}};
    const float low = words.low() * pair.at[0], high = words.high() * pair.at[1];
    const Words most = split(low, high);
    left.at[0][i] = most.plane[0];
    rest.at[0][i] = lost_by(most, low, high).plane[0];
  }
}

// The left factor times a number of each of its columns.
INLINE void scale_columns(Fragment& left, const float* decays, int k, const Seat& seat) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int step = k + half * 8 + seat.column;
    const Pack<float, 2> pair = *reinterpret_cast<const Pack<float, 2>*>(decays + step);
#pragma unroll
    for (int i = half * 2; i < half * 2 + 2; ++i) {
      Words words;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) words.plane[p] = left.at[p][i];
      const Words scaled = split(words.low() * pair.at[0], words.high() * pair.at[1]);
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) left.at[p][i] = scaled.plane[p];
    }
  }
}

// The sums of a product (16, 16) as a left factor.
INLINE void set_left(Fragment& to, const float (&sums)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Words words = split(sums[i / 2][i % 2 * 2], sums[i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) to.at[p][i] = words.plane[p];
  }
}

// Rows of a matrix in global memory, `stride` numbers apart, to a tile; the tile is zero past those that are present.
// Columns come in whole pieces of 8. Copies of sixteen-bit numbers are under way on return.
template <int kThreads, int kRows, int kColumns>
INLINE void copy_rows(Tile<kRows, kColumns>& to, const Stored* from, Index stride, int rows, int columns, int thread) {
  using Destination = Tile<kRows, kColumns>;
#pragma unroll
  for (int i = 0; i < (Destination::kPieces + kThreads - 1) / kThreads; ++i) {
    const int piece = i * kThreads + thread;
    if (Destination::kPieces % kThreads && piece >= Destination::kPieces) break;
    const int block = piece / 8, column = block % Destination::kColumnBlocks * 8;
    const int row = block / Destination::kColumnBlocks * 8 + piece % 8;
    const bool present = row < rows && column < columns;
    copy_piece(to, piece, from + (present ? row * stride + column : 0), present);
  }
}

// A matrix that lies in global memory in the blocks of a tile.
template <int kThreads, int kRows, int kColumns>
INLINE void copy_blocks(Tile<kRows, kColumns>& to, const Stored* from, int thread) {
  constexpr int kPieces = Tile<kRows, kColumns>::kPieces;
#pragma unroll
  for (int i = 0; i < (kPieces + kThreads - 1) / kThreads; ++i) {
    const int piece = i * kThreads + thread;
    if (kPieces % kThreads && piece >= kPieces) break;
    copy_piece(to, piece, from + piece * 8, true);
  }
}

// Eight adjacent numbers, in every plane.
struct Eight {
  Pack<unsigned, 4> plane[kPlanes];
};

// Those in global memory, or zeros in their place.
INLINE Eight split_eight(const Stored* from, bool present) {
  Pack<float, 4> halves[2] = {};
  if (present) {
    halves[0] = reinterpret_cast<const Pack<float, 4>*>(from)[0];
    halves[1] = reinterpret_cast<const Pack<float, 4>*>(from)[1];
  }
  Eight eight;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Words pair = split(halves[i / 2].at[i % 2 * 2], halves[i / 2].at[i % 2 * 2 + 1]);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) eight.plane[p].at[i] = pair.plane[p];
  }
  return eight;
}

template <int kRows, int kColumns>
INLINE void copy_piece(Tile<kRows, kColumns>& to, int piece, const Stored* from, bool present) {
  if constexpr (kHalf) {
    copy_sixteen_bytes(&to.at[0][piece * 8], from, present);
  } else {
    const Eight eight = split_eight(from, present);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) *reinterpret_cast<Pack<unsigned, 4>*>(&to.at[p][piece * 8]) = eight.plane[p];
  }
}

// `kCount` floats, a multiple of 4, to shared memory.
template <int kThreads, int kCount>
INLINE void copy_floats(float* to, const float* from, int thread) {
#pragma unroll
  for (int i = 0; i < (kCount / 4 + kThreads - 1) / kThreads; ++i) {
    const int piece = i * kThreads + thread;
    if (piece < kCount / 4) copy_sixteen_bytes(to + piece * 4, from + piece * 4, true);
  }
}

INLINE float sum_of_quad(float x) {
  x += exchange(x, 1);
  return x + exchange(x, 2);
}

INLINE float sum_of_warp(float x) {
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) x += exchange(x, lanes);
  return x;
}

// Word i of lane l of four goes to word l of lane i.
INLINE void transpose_words(unsigned (&words)[4], int lane) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool upper = lane & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const unsigned sent = upper ? words[i] : words[i + bit];
      const unsigned got = exchange(sent, bit);
      if (upper) words[i] = got;
      else words[i + bit] = got;
    }
  }
}

// Writes a row of sums of products side by side, (16, 8) each, of which this lane has two columns of each; `to` is the
// row's first number, 16 bytes aligned, `kTiles` how many there are, `columns` how many columns are present. The lanes
// of a row exchange what they have so that each writes 16 bytes at once.
template <int kTiles>
INLINE void write_row(Stored* to, const float (&low)[kTiles], const float (&high)[kTiles], bool present, int columns,
                      const Seat& seat) {
  if constexpr (kHalf && kTiles % 4 == 0) {
    const int lane = seat.column / 2;
#pragma unroll
    for (int four = 0; four < kTiles / 4; ++four) {
      unsigned words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = narrow(Element(), low[four * 4 + i], high[four * 4 + i]);
      transpose_words(words, lane);
      const int column = (four * 4 + lane) * 8;
      if (present && column < columns) {
        Pack<unsigned, 4> piece;
#pragma unroll
        for (int i = 0; i < 4; ++i) piece.at[i] = words[i];
        *reinterpret_cast<Pack<unsigned, 4>*>(to + column) = piece;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int column = i * 8 + seat.column;
      if (!present || column >= columns) continue;
      if constexpr (kHalf) {
        *reinterpret_cast<unsigned*>(to + column) = narrow(Element(), low[i], high[i]);
      } else {
        Pack<float, 2> pair;
        pair.at[0] = low[i], pair.at[1] = high[i];
        *reinterpret_cast<Pack<float, 2>*>(to + column) = pair;
      }
    }
  }
}
