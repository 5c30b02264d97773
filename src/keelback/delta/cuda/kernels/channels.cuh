// The decays of a chunk where each key channel has its own.
//
// A decay from step j to step i is split in factors, one with each step, so that matrices multiply. Over a whole chunk they
// might overflow. So a chunk is cut into blocks of 16 steps, and logs are summed up from the start of each: with s these
// sums, and t that of a whole block, a decay between steps of two blocks is
//     2^s_i  2^(t of the blocks between)  2^(t_j - s_j),
// of which no factor is more than one if no decay is. Within a block it is 2^(s_i - t) 2^(t - s_j), of which the first may
// be large: where it does not fit, the differences are found for each pair of steps. Scores within a block are the largest,
// so that the second factor, and what the first is multiplied by, are not rounded there.
// Source: Yang et al. 2023 (arXiv 2312.06635), section 4; Kimi Linear (arXiv 2510.26692), section 3.
#pragma once

#include "chunks.cuh"

static_assert(kHalf, "there are no such kernels for float32");

// What is known of the steps of a chunk of a head beside their decays: what q and k are multiplied by, beta, and how many
// resets there were up to and with each.
struct alignas(16) ChannelSteps {
  float q_factors[kChunk], k_factors[kChunk], beta[kChunk];
  int epochs[kChunk];

  // Whether something is left at a step of what entered the chunk, and at its end of a step.
  INLINE bool entered(int step) const { return !kHasReset || epochs[step] == 0; }
  INLINE bool leaves(int step) const { return !kHasReset || epochs[step] == epochs[kChunk - 1]; }
};
constexpr int kChannelStepsBytes = kChunk * 16;
static_assert(sizeof(ChannelSteps) == kChannelStepsBytes, "as the host reckons");

// Logs (base 2) of the decays from the start of each block of 16 up to and with each step; rows begin in different banks.
using Logs = float[kChunk][kKey + 8];

struct alignas(16) BlockDecays {
  float across[kRowBlocks][kKey];  // 2^t
  float rising[kRowBlocks][kKey];  // 2^-t, where it fits
  int exact[kRowBlocks][kKey / 16];  // whether it does not, in one of 16 channels
};
constexpr int kBlockDecaysBytes = kRowBlocks * (8 * kKey + kKey / 4);
static_assert(sizeof(BlockDecays) == kBlockDecaysBytes, "as the host reckons");

// Decays below 2^-150 are zero.
constexpr float kSmallestLog = -150.0f;
// The range of logs in a block, in bits, for which its decays are split. Numbers of float16 do not have the exponents.
template <typename Format>
constexpr float kWidestSpan = 0.0f;
template <>
constexpr float kWidestSpan<BFloat16> = 96.0f;

using Pair = Pack<float, 2>;

INLINE Pair pair_of(const float* from) { return *reinterpret_cast<const Pair*>(from); }
INLINE void keep_pair(float* to, const Pair& pair) { *reinterpret_cast<Pair*>(to) = pair; }
INLINE Pair operator*(const Pair& a, const Pair& b) { return {{a.at[0] * b.at[0], a.at[1] * b.at[1]}}; }
INLINE Pair operator*(const Pair& a, float b) { return {{a.at[0] * b, a.at[1] * b}}; }
INLINE Pair operator+(const Pair& a, const Pair& b) { return {{a.at[0] + b.at[0], a.at[1] + b.at[1]}}; }
INLINE Pair operator-(const Pair& a, const Pair& b) { return {{a.at[0] - b.at[0], a.at[1] - b.at[1]}}; }
INLINE Pair power_of_two(const Pair& x) { return {{power_of_two(x.at[0]), power_of_two(x.at[1])}}; }

// Two adjacent numbers of a matrix in shared memory.
template <typename Matrix>
INLINE Pair numbers_of(const Matrix& matrix, int row_block, int column_block, const Seat& seat) {
  const Words words = matrix.pair(row_block, column_block, seat);
  return {{words.low(), words.high()}};
}
template <typename Matrix>
INLINE void set_numbers(Matrix& matrix, int row_block, int column_block, const Seat& seat, const Pair& pair) {
  matrix.set(row_block, column_block, seat, split(pair.at[0], pair.at[1]));
}
INLINE void store_numbers(Stored* to, const Pair& pair) { *reinterpret_cast<unsigned*>(to) = narrow(Element(), pair.at[0], pair.at[1]); }

// Two adjacent sums of a lane.
INLINE Pair pair_in(const float (&sums)[2][4], int n, int i) { return {{sums[n][i * 2], sums[n][i * 2 + 1]}}; }
INLINE void set_pair(float (&sums)[2][4], int n, int i, const Pair& pair) { sums[n][i * 2] = pair.at[0], sums[n][i * 2 + 1] = pair.at[1]; }

template <typename Matrix>
INLINE Pair numbers_at(const Matrix& matrix, int row, int column) {
  return numbers_of(matrix, row / 8, column / 8, Seat(row % 8 * 4 + column % 8 / 2));
}

// By the first threads, each with two channels of a block of steps.
constexpr int kColumnThreads = kRowBlocks * kKey / 2;

struct ColumnPlace {
  int block, column;

  INLINE explicit ColumnPlace(int thread) : block(thread / (kKey / 2)), column(thread % (kKey / 2) * 2) {}
};

template <typename Arguments>
INLINE bool is_reset(const Arguments& p, const Place& place, int step) {
  if constexpr (!kHasReset) return false;
  return step < place.rows && p.reset[place.row * p.reset_row + (place.time + step) * p.reset_time];
}

template <typename Arguments>
INLINE void find_logs(Logs& logs, BlockDecays& blocks, const Arguments& p, const Place& place, int thread) {
  if (thread >= kColumnThreads) return;
  const ColumnPlace own(thread);
  Pack<StoredDecay, 2> given[16];
  const int first = own.block * 16;
  const StoredDecay* from = p.g + place.row * p.g_row + place.head * p.g_head + (place.time + first) * p.g_time + own.column;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    given[i] = {};
    if (first + i < place.rows) given[i] = *reinterpret_cast<const Pack<StoredDecay, 2>*>(from);
    from += p.g_time;
  }
  Pair sum = {}, span = {};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const bool nothing = is_reset(p, place, first + i);  // Nothing is left to decay there.
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float log = nothing ? 0.0f : widen(given[i].at[j]) * float(kLog2OfE);
      if (log < kSmallestLog) log = kSmallestLog;
      sum.at[j] += log, span.at[j] += magnitude(log);
    }
    keep_pair(&logs[first + i][own.column], sum);
  }
  keep_pair(&blocks.across[own.block][own.column], power_of_two(sum));
  keep_pair(&blocks.rising[own.block][own.column], power_of_two(Pair{} - sum));
  const bool fits = span.at[0] <= kWidestSpan<Element> && span.at[1] <= kWidestSpan<Element>;  // not if it is no number
  float misfits = fits ? 0.0f : 1.0f;
#pragma unroll
  for (int lanes = 1; lanes < 8; lanes *= 2) misfits += exchange(misfits, lanes);
  if (thread % 8 == 0) blocks.exact[own.block][own.column / 16] = misfits > 0.0f;
}

// Beta and the resets of the steps, by a warp.
template <typename Arguments>
INLINE void find_rows(ChannelSteps& steps, const Arguments& p, const Place& place, int lane) {
  constexpr int kSteps = kChunk / 32;
  int epochs[kSteps], count = 0;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int step = lane * kSteps + i, time = place.time + step;
    count += is_reset(p, place, step);
    epochs[i] = count;
    steps.beta[step] = step < place.rows ? widen(p.beta[place.row * p.beta_row + time * p.beta_time + place.head * p.beta_head]) : 0.0f;
  }
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int before = from_lower_lane(count, lanes);
    if (lane >= lanes) count += before;
  }
#pragma unroll
  for (int i = 0; i < kSteps; ++i) steps.epochs[lane * kSteps + i] = epochs[i] + count - epochs[kSteps - 1];
}
