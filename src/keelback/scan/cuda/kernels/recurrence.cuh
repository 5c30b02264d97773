// The recurrence on tiles: h_t = 2^(delta_t A) h_{t-1} + delta_t u_t B_t.
#pragma once

#include "tiles.cuh"

// What a step of the recurrence needs of a channel: its size, and its size times the input.
using StepPair = Pack<Real, 2>;
using StepRows = ChannelRows<StepPair, kChannels>;

// A tile of the operands of the recurrence, in shared memory.
struct InputTile {
  alignas(16) StepRows steps;
  StateRows B;
  bool reset[kTile];
};

// The way of the operands of the recurrence to shared memory: a thread's share of the next tile.
struct InputLoader {
  Cursor<const Stored> u_from, delta_from;
  const Stored* B_from;
  Index B_time;
  ChannelTile u, delta;
  StateTile B;

  INLINE InputLoader(const Sequences& u_of, const Sequences& delta_of, const StateSequences& B_of, const Place& place,
                     const Sizes& sizes, const Mover& mover)
      : u_from(cursor(u_of, place, sizes, mover, place.start)),
        delta_from(delta_cursor(delta_of, place, sizes, mover, place.start)),
        B_from(place.at(B_of) + place.start * B_of.time),
        B_time(B_of.time) {}

  // Loads a tile of `steps` steps and moves `advance` steps on.
  INLINE void load(int steps, int advance, const Mover& mover, int thread) {
    u.load(u_from, steps, mover);
    delta.load_delta(delta_from, steps, mover);
    B.load(B_from, B_time, steps, thread);
    u_from.move(advance);
    delta_from.move(advance);
    B_from += advance * B_time;
  }

  INLINE void store(InputTile& tile, const ChannelReals& bias, int steps, const Mover& mover, int thread) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (mover.step(i) >= kTile) break;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Real size = step_size(delta.packs[i].at(v), bias.at[v], mover.moves(i, steps));
        tile.steps.at[mover.step(i)][StepRows::slot(mover.column + v)] = {size, size * u.packs[i].at(v)};
      }
    }
    B.store(tile.B, thread);
  }
};

// What the recurrence needs of a few steps, for this thread's states: computed ahead of its use, since
// exponentials take long to arrive.
template <int kCount>
struct Ahead {
  Real sizes[kCount], decays[kCount][kStatesPerThread], inputs[kCount][kStatesPerThread];

  INLINE void prepare(const InputTile& tile, int first, const Seat& seat, const Real (&rates)[kStatesPerThread]) {
    const int slot = StepRows::slot(seat.channel);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const StepPair pair = tile.steps.at[first + i][slot];
      const StateVector b = tile.B.of(first + i, seat);
      sizes[i] = pair.at[0];
#pragma unroll
      for (int j = 0; j < kStatesPerThread; ++j) {
        decays[i][j] = decay(i * kStatesPerThread + j, pair.at[0] * rates[j]);
        inputs[i][j] = pair.at[1] * b.at[j];
      }
    }
  }

  // Every kPolynomials-th exponential by a polynomial, or none.
  INLINE static Real decay(int number, Real exponent) {
    constexpr int kEvery = kPolynomials > 0 ? kPolynomials : 1;
    return kPolynomials > 0 && number % kEvery == 0 ? polynomial_power_of_two(exponent) : power_of_two(exponent);
  }
};

// One step: the state in `h` moves on.
INLINE void advance(Real (&h)[kStatesPerThread], const Real (&decays)[kStatesPerThread],
                    const Real (&inputs)[kStatesPerThread], bool reset) {
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) h[j] = decays[j] * (reset ? Real(0) : h[j]) + inputs[j];
}

// Runs through a tile: calls step(first, i, ahead, k) for i = 0 .. kSteps - 1 of every group of kSteps steps,
// which starts at `first`; the step's decays and inputs are entry `k` of `ahead`. Calls finish(first) after.
template <typename Step, typename Finish>
INLINE void run_tile(const InputTile& tile, const Seat& seat, const Real (&rates)[kStatesPerThread], Step step,
                     Finish finish) {
  constexpr int kHalf = kSteps / 2;
  Ahead<kHalf> even, odd;
  auto run_half = [&](int first, int offset, const Ahead<kHalf>& ahead) {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) step(first, offset + i, ahead, i);
  };
  even.prepare(tile, 0, seat, rates);
#pragma unroll 1
  for (int first = 0; first < kTile - kSteps; first += kSteps) {
    odd.prepare(tile, first + kHalf, seat, rates);
    run_half(first, 0, even);
    even.prepare(tile, first + kSteps, seat, rates);
    run_half(first, kHalf, odd);
    finish(first);
  }
  odd.prepare(tile, kTile - kHalf, seat, rates);
  run_half(kTile - kSteps, 0, even);
  run_half(kTile - kSteps, kHalf, odd);
  finish(kTile - kSteps);
}
