// Spans of the length that run at the same time. Each passes on its end state from a zero start (and, backward,
// the adjoint of its start from a zero end); what a span receives follows from these.
#pragma once

#include "place.cuh"

// Spans whose values are on their way together.
constexpr int kBatch = 4;

// What other spans of a sequence pass on: states or adjoints (span, channel, state), and the sums of their step
// sizes (span, channel), endless where there is a reset. The strides count elements.
struct Passed {
  const Real *values, *totals;
  Index span, channel, state, total_span;
  int absent;  // the span after which the numbers of spans are one less; all have theirs where it is -1

  // In tensors of their own.
  INLINE Passed(const Real* values, const Real* totals, const Place& place, const Sizes& sizes)
      : values(part(values, place.sequence * sizes.spans, sizes) + Index(place.first_channel) * kStates),
        totals(totals + place.sequence * sizes.spans * sizes.channels + place.first_channel),
        span(Index(sizes.channels) * kStates),
        channel(kStates),
        state(1),
        total_span(sizes.channels),
        absent(-1) {}

  // In the rows of a letter; see letters.cuh.
  INLINE Passed(const Real* letter, const Place& place, const Sizes& sizes)
      : values(letter),
        totals(letter + Index(kStates) * sizes.channels),
        span(Index(kStates + 1) * sizes.channels),
        channel(1),
        state(sizes.channels),
        total_span(Index(kStates + 1) * sizes.channels),
        absent(place.span) {}

  INLINE Index number(int of) const { return absent >= 0 && of > absent ? of - 1 : of; }

  INLINE void read(int from, const Seat& seat, Real (&to)[kStatesPerThread], Real& elapsed) const {
    const Real* of_channel = values + number(from) * span + seat.channel * channel;
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j)
      to[j] = seat.holds(j) ? of_channel[(seat.state_lane * kStatesPerThread + j) * state] : Real(0);
    elapsed = seat.active ? totals[number(from) * total_span + seat.channel] : Real(0);
  }
};

// Keeps a span's end state and the sum of its step sizes for the other spans.
INLINE void pass_on(Real* states, Real* totals, const Real (&h)[kStatesPerThread], Real elapsed, const Place& place,
                    const Sizes& sizes, const Seat& seat) {
  write_states(part(states, place.sequence_span, sizes), place, seat, h);
  if (seat.active && seat.state_lane == 0)
    totals[place.sequence_span * sizes.channels + place.first_channel + seat.channel] = elapsed;
}

// Walks over `count` spans: `from`, `from` + direction, ... `values` are what the first of them received, then
// what the last one passes on.
INLINE void receive(Real (&values)[kStatesPerThread], const Passed& passed, int from, int direction, int count,
                    const Seat& seat, const Real (&rates)[kStatesPerThread]) {
  for (int left = count; left > 0; left -= kBatch, from += kBatch * direction) {
    Real added[kBatch][kStatesPerThread], elapsed[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      elapsed[i] = Real(0);
#pragma unroll
      for (int j = 0; j < kStatesPerThread; ++j) added[i][j] = Real(0);
      if (i < left) passed.read(from + i * direction, seat, added[i], elapsed[i]);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int j = 0; j < kStatesPerThread; ++j)
        values[j] = decayed(decay_over(elapsed[i], rates[j]), values[j]) + added[i][j];
  }
}
