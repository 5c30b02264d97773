// One step of the causal convolution, as in decoding: the newest input enters the state, and the oldest leaves it.
#include "configuration.h"
#include "numbers.cuh"

using Index = long long;

// Strides count elements. Times a row or a channel they may need 64 bits. y (row, channel) has no gaps.
struct StepArguments {
  Kept* state;
  const Stored* x;
  const Tap* weight;
  const Bias* bias;
  Stored* y;
  int rows, channels;
  int state_row, state_channel, state_past, x_row, x_channel, weight_channel, weight_tap, bias_channel;
};

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

KERNEL void __launch_bounds__(kThreads) keelback_step(const StepArguments p) {
  const unsigned seat = blockIdx.x * kThreads + threadIdx.x;
  const int row = seat / p.channels, channel = seat % p.channels;
  if (row >= p.rows) return;
  Kept* state = p.state + Index(row) * p.state_row + Index(channel) * p.state_channel;
  Real inputs[kPast + 1], weights[kWidth];
  load<kStateInPiece, kPast>(state, p.state_past, inputs);
  load<kWeightInPiece, kWidth>(p.weight + Index(channel) * p.weight_channel, p.weight_tap, weights);
  inputs[kPast] = value(p.x + Index(row) * p.x_row + Index(channel) * p.x_channel);
  Real sum = kHasBias ? value(p.bias + Index(channel) * p.bias_channel) : Real(0);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += weights[i] * inputs[kPast + 1 - kWidth + i];
  store<kStateInPiece, kPast>(state, p.state_past, inputs + 1);
  store<false, 1>(p.y + Index(row) * p.channels + channel, 1, kSilu ? &(sum *= sigmoid(sum)) : &sum);
}
