// The tensors of a scan, and the part of them that a block of threads works on.
#pragma once

#include "configuration.h"
#include "lanes.cuh"

using Index = long long;

constexpr int kPaddedStates = kStatesPerThread * kStateLanes;
constexpr int kThreads = kStateLanes * kChannels;

using StateVector = Pack<Real, kStatesPerThread>;

// A warp's lanes count, from the lowest bit: kStateStride channels, the states of a channel, other channels.
// Wide reads of shared memory take half as long where neighbouring lanes read the same address.
constexpr int kChannelLanes = 32 / kStateLanes;

constexpr int kStateMask = (kStateLanes - 1) * kStateStride;

// `values` summed over the states (channels) of a warp; see transpose_sum.
template <int kCount>
INLINE void sum_over_states(Real (&values)[kCount], int lane) {
  transpose_sum<kStateMask>(values, lane);
}

template <int kCount>
INLINE void sum_over_channels(Real (&values)[kCount], int lane) {
  transpose_sum<31 & ~kStateMask>(values, lane);
}

// A tensor (replica, row, time, channel) whose channels are adjacent; strides count elements. With kDense none
// of these tensors has gaps, so that one offset serves them all.
struct Sequences {
  const Stored* data;
  Index replica, row, time;
};

// A tensor (replica, row, time, group, state) whose states are adjacent.
struct StateSequences {
  const Stored* data;
  Index replica, row, time, group;
};

// True where the state is forgotten before a step: (replica, row, time).
struct Resets {
  const unsigned char* data;
  Index replica, row, time;
};

struct Sizes {
  int rows, length, channels, states, groups;
  int channels_per_group, blocks_per_group;
  int spans, span_length;  // the length is cut into `spans` of `span_length` steps, the last one shorter
};

// Neighbouring blocks share a span of a row, and with it B and C.
struct Place {
  int replica, row, span, group, block_in_group;
  Index sequence, sequence_span;  // the latter counts the spans of all sequences
  int first_channel, channels;
  int start, stop;

  INLINE explicit Place(const Sizes& sizes, unsigned block) {
    unsigned blocks = sizes.groups * sizes.blocks_per_group;
    unsigned channel_block = block % blocks;
    unsigned rest = block / blocks;
    span = rest % sizes.spans;
    sequence = rest / sizes.spans;
    sequence_span = rest;
    replica = static_cast<int>(sequence / sizes.rows);
    row = static_cast<int>(sequence % sizes.rows);
    group = channel_block / sizes.blocks_per_group;
    block_in_group = channel_block % sizes.blocks_per_group;
    int offset = block_in_group * kChannels;
    first_channel = group * sizes.channels_per_group + offset;
    int left = sizes.channels_per_group - offset;
    channels = left < kChannels ? left : kChannels;
    start = span * sizes.span_length;
    stop = sizes.length - start < sizes.span_length ? sizes.length : start + sizes.span_length;
  }

  // The first element of this block's channels, at step 0.
  INLINE Index offset(const Sequences& x, const Sizes& sizes) const {
    const Index row_start = kDense ? dense_offset(sizes) : replica * x.replica + row * x.row;
    return row_start + first_channel;
  }

  INLINE Index dense_offset(const Sizes& sizes) const { return sequence * sizes.length * sizes.channels; }

  INLINE const Stored* at(const StateSequences& x) const {
    return x.data + replica * x.replica + row * x.row + group * x.group;
  }

  INLINE const unsigned char* at(const Resets& x) const {
    return x.data + replica * x.replica + row * x.row;
  }
};

// A thread holds `kStatesPerThread` states of one channel.
struct Seat {
  int lane, state_lane, channel, channel_lane;
  bool active;

  INLINE explicit Seat(const Place& place, int thread) {
    lane = thread % 32;
    state_lane = thread / kStateStride % kStateLanes;
    channel = kStateStride * (thread / (kStateStride * kStateLanes)) + thread % kStateStride;
    channel_lane = channel % kChannelLanes;
    active = channel < place.channels;
  }

  // Whether state `j` of this thread exists.
  INLINE bool holds(int j) const {
    return active && (kPaddedStates == kStates || state_lane * kStatesPerThread + j < kStates);
  }

  // Offset of this thread's first state in a tensor (..., channel, state).
  INLINE Index states_of(const Place& place) const {
    return Index(place.first_channel + channel) * kStates + state_lane * kStatesPerThread;
  }
};

// Reads this thread's states from a tensor (channel, state), or zeros where there is none.
INLINE void read_states(const Real* from, const Place& place, const Seat& seat, Real (&to)[kStatesPerThread]) {
  const Index offset = seat.states_of(place);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) to[j] = from != nullptr && seat.holds(j) ? from[offset + j] : Real(0);
}

INLINE void write_states(Real* to, const Place& place, const Seat& seat, const Real (&from)[kStatesPerThread]) {
  const Index offset = seat.states_of(place);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j)
    if (seat.holds(j)) to[offset + j] = from[j];
}

INLINE void add_states(Real* to, const Place& place, const Seat& seat, const Real (&from)[kStatesPerThread]) {
  const Index offset = seat.states_of(place);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j)
    if (seat.holds(j)) add_to_memory(&to[offset + j], from[j]);
}

// The part of a sequence, or of a span, in a tensor (sequence or span, channel, state); null stays null.
template <typename T>
INLINE T* part(T* of, Index index, const Sizes& sizes) {
  return of == nullptr ? nullptr : of + index * sizes.channels * kStates;
}

// This thread's entries of A times log2(e), so that the decay of a step is 2^(delta A).
INLINE void read_rates(const Real* A, const Place& place, const Sizes& sizes, const Seat& seat,
                       Real (&rates)[kStatesPerThread]) {
  read_states(part(A, place.replica, sizes), place, seat, rates);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) rates[j] *= Real(kLog2OfE);
}

// Stands for the decay over a time with a reset in it, after which nothing remains, not even an infinity.
constexpr Real kForgotten = Real(-1);

// decay * state, but zero where the state is: an overflowing decay of nothing is nothing.
INLINE Real decayed(Real decay, Real state) {
  return decay == kForgotten || state == Real(0) ? Real(0) : decay * state;
}

// The decay over a sum of step sizes, which is endless where a reset is among them.
INLINE Real decay_over(Real elapsed, Real rate) {
  return elapsed == endless<Real>() ? kForgotten : power_of_two(elapsed * rate);
}
