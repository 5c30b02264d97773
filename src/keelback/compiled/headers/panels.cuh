// Products by warpgroups, and tiles for them whose rows the copying unit writes.
#pragma once

#include "bulk_intrinsics.h"
#include "group_intrinsics.h"
#include "sequences.cuh"

constexpr int kGroupThreads = 128;
constexpr int kGroupWarps = 4;
// Groups of products that are under way at most: their left factors stay in registers.
constexpr int kProductsUnderWay = 2;

// A matrix in panels of up to 64 columns, row by row. The pieces of 8 numbers of a row change places with its number.
template <int kRows, int kColumns>
struct alignas(1024) Panels {
  static constexpr int kWidth = kColumns < 64 ? kColumns : 64;
  static constexpr int kPitch = kWidth * 2;  // bytes
  static constexpr int kPieces = kWidth / 8;
  static constexpr int kCount = kColumns / kWidth;
  static_assert(kRows % 16 == 0 && (kWidth == 32 || kWidth == 64) && kColumns % kWidth == 0, "whole panels");

  unsigned short at[kPlanes][kCount][kRows * kWidth];

  // Row `row` of a block of 8 x 8.
  INLINE const unsigned short* row(int plane, int row_block, int column_block, int row) const {
    return &at[plane][column_block / kPieces][(row_block * 8 + row) * kWidth + place(column_block, row) * 8];
  }
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
      auto pair = const_cast<unsigned short*>(row(p, row_block, column_block, seat.row)) + seat.column;
      *reinterpret_cast<unsigned*>(pair) = words.plane[p];
    }
  }

 private:
  static INLINE int place(int column_block, int row) {
    return column_block % kPieces ^ (kWidth == 64 ? row % 8 : row / 2 % 4);
  }
};

// The address of a right factor, in blocks (k, n) of a tile that holds it; or (n, k) of one that holds its transpose.
template <bool kTransposed, int kRows, int kColumns>
INLINE auto right_of(const Tile<kRows, kColumns>& tile, int plane, int k, int n) {
  constexpr int kRowOfBlocks = Tile<kRows, kColumns>::kColumnBlocks * 128;
  const int offset = plane * sizeof(tile.at[0]) + (kTransposed ? n : k) * kRowOfBlocks + (kTransposed ? k : n) * 128;
  return right_in_blocks(&tile, offset, kTransposed ? kRowOfBlocks : 128, kTransposed ? 128 : kRowOfBlocks);
}
template <bool kTransposed, int kRows, int kColumns>
INLINE auto right_of(const Panels<kRows, kColumns>& tile, int plane, int k, int n) {
  using Right = Panels<kRows, kColumns>;
  const int row_block = kTransposed ? n : k, column_block = kTransposed ? k : n;
  constexpr int kPanel = kRows * Right::kPitch;
  const int of_panel = plane * Right::kCount + column_block / Right::kPieces;
  const int offset = of_panel * kPanel + row_block * 8 * Right::kPitch + column_block % Right::kPieces * 16;
  return right_in_panel(&tile, offset, Right::kPitch, kPanel);
}

// How many bytes it is to where 16 k of its depth lie.
template <bool kTransposed, int kRows, int kColumns>
INLINE int bytes_along_depth(const Tile<kRows, kColumns>&, int k) {
  return kTransposed ? 256 * k : 256 * Tile<kRows, kColumns>::kColumnBlocks * k;
}
template <bool kTransposed, int kRows, int kColumns>
INLINE int bytes_along_depth(const Panels<kRows, kColumns>&, int k) {
  using Right = Panels<kRows, kColumns>;
  return kTransposed ? 2 * k / Right::kPieces * kRows * Right::kPitch + 2 * k % Right::kPieces * 16 : 16 * Right::kPitch * k;
}

template <bool kTransposed, int kTiles, typename Right>
INLINE void multiply_planes(float (&sums)[kTiles][2][4], const Fragment& left, const Right& right, int k, int n) {
#pragma unroll
  for (int order = kPlanes - 1; order >= 0; --order)
#pragma unroll
    for (int p = 0; p <= order; ++p) {
      multiply_group<kTransposed>(Element(), flat(sums), left.at[p], right_of<kTransposed>(right, order - p, k, n));
    }
}

// sums (16 rows of a warp, 16 kTiles) += left right, by all warps of a warpgroup, before `finish` returns.
template <bool kTransposed, int kTiles, typename Right>
INLINE void multiply_together(float (&sums)[kTiles][2][4], const Fragment& left, const Right& right, int k, int n) {
  begin_products();
  multiply_planes<kTransposed>(sums, left, right, k, n);
  close_products();
  wait_for_products<kProductsUnderWay - 1>();
}

// The same for left factors along the whole depth of the right one; all are under way on return. `await` waits for these
// sums, where at most kLeft calls came after theirs; until then the left factors stay where they are, by `let_go` after it.
template <bool kTransposed, int kTiles, int kCount, typename Right>
INLINE void start_products(float (&sums)[kTiles][2][4], const Fragment (&lefts)[kCount], const Right& right) {
  begin_products();
#pragma unroll
  for (int k = 0; k < kCount; ++k) multiply_planes<kTransposed>(sums, lefts[k], right, k * 2, 0);
  close_products();
}
// And for a left factor of 64 rows that lies in shared memory, of which each warp has 16: nothing of it is in registers.
template <bool kTransposed, int kTiles, int kRows, int kColumns, typename Right>
INLINE void start_products(float (&sums)[kTiles][2][4], const Panels<kRows, kColumns>& left, const Right& right) {
  static_assert(kRows == 64 && kPlanes == 1, "a warpgroup's rows, in half precision");
  begin_products();
#pragma unroll
  for (int k = 0; k < kColumns / 16; ++k) {
    multiply_group<kTransposed>(Element(), flat(sums), right_of<true>(left, 0, k * 2, 0), right_of<kTransposed>(right, 0, k * 2, 0));
  }
  close_products();
}
template <int kLeft, int kTiles>
INLINE void await(float (&sums)[kTiles][2][4]) {
  wait_for_products<kLeft>();
  pin(flat(sums));
}
template <int kCount>
INLINE void let_go(Fragment (&lefts)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount * kPlanes; ++i) pin(lefts[i / kPlanes].at[i % kPlanes]);
}

// Waits for all products.
template <int kTiles>
INLINE void finish(float (&sums)[kTiles][2][4]) {
  wait_for_products<0>();
  pin(flat(sums));
}

// A left factor (16, 16) out of panels that hold it, or its transpose; see load_left.
template <int kRows, int kColumns>
INLINE void load_left(Fragment& to, const Panels<kRows, kColumns>& tile, int m, int k, int lane) {
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) load_matrices<false>(to.at[p], tile.row(p, m + lane / 8 % 2, k + lane / 16, lane % 8));
}
template <int kRows, int kColumns>
INLINE void load_left_transposed(Fragment& to, const Panels<kRows, kColumns>& tile, int k, int m, int lane) {
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) load_matrices<true>(to.at[p], tile.row(p, k + lane / 16, m + lane / 8 % 2, lane % 8));
}

// Where `load_left` finds it again.
template <typename Rows>
INLINE void store_left(Rows& tile, const Fragment& from, int m, int k, int lane) {
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    store_matrices(const_cast<unsigned short*>(tile.row(p, m + lane / 8 % 2, k + lane / 16, lane % 8)), from.at[p]);
  }
}

// Starts to copy a tile: rows from `time` on of a head or group, columns from `number` on; zero where there is none. In
// half precision one thread does, and the barrier tells when all is there; else all kThreads do.
template <int kThreads, int kRows, int kColumns>
INLINE void fetch_rows(Panels<kRows, kColumns>& to, const TensorMap& map, const Sequences& from, int number, int head, int time,
                       int row, int rows, int columns, CopyBarrier& barrier, int thread) {
  using To = Panels<kRows, kColumns>;
  if constexpr (kHalf) {
#pragma unroll
    for (int panel = 0; panel < To::kCount; ++panel) {
      copy_box(to.at[0][panel], map, number + panel * To::kWidth, head, time, row, barrier);
    }
  } else {
    constexpr int kPieces = kRows * kColumns / 8;
    const Stored* first = from.of(row, time, head) + number;
#pragma unroll
    for (int i = 0; i < (kPieces + kThreads - 1) / kThreads; ++i) {
      const int piece = i * kThreads + thread;
      if (kPieces % kThreads && piece >= kPieces) break;
      const int of_row = piece / (kColumns / 8), column = piece % (kColumns / 8);
      const bool present = of_row < rows && column * 8 < columns;
      const Eight eight = split_eight(first + (present ? of_row * from.time + column * 8 : 0), present);
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        auto place = const_cast<unsigned short*>(to.row(p, of_row / 8, column, of_row % 8));
        *reinterpret_cast<Pack<unsigned, 4>*>(place) = eight.plane[p];
      }
    }
  }
}

// The same for a tile that lies in global memory in blocks.
template <int kThreads, int kRows, int kColumns>
INLINE void fetch_blocks(Tile<kRows, kColumns>& to, const Stored* from, CopyBarrier& barrier, int thread) {
  if constexpr (kHalf) copy_bytes(&to, from, sizeof(to), barrier);
  else copy_blocks<kThreads>(to, from, thread);
}

// And for floats, `kCount` of them.
template <int kThreads, int kCount>
INLINE void fetch_floats(float* to, const float* from, CopyBarrier& barrier, int thread) {
  if constexpr (kHalf) {
    copy_bytes(to, from, kCount * 4, barrier);
  } else {
#pragma unroll
    for (int i = 0; i < (kCount + kThreads - 1) / kThreads; ++i) {
      if (i * kThreads + thread < kCount) to[i * kThreads + thread] = from[i * kThreads + thread];
    }
  }
}
