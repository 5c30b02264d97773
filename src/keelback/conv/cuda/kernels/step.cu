// One step of the causal convolution, as in decoding: the newest input enters the state, and the oldest leaves it.
#include "taps.cuh"

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
