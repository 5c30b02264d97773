// y and the last state. A block runs through a span of one row for `kChannels` channels, tile by tile: while
// it computes a tile from shared memory, the next one is on its way to registers. Where there are several spans
// (kSpanned), all but the first begin with zero: correct_kernel adds what their outputs lack.
#include "recurrence.cuh"
#include "spans.cuh"

struct ForwardArguments {
  Sizes sizes;
  Sequences u, delta, z;
  StateSequences B, C;
  Resets reset;
  const Real *A, *D, *bias;
  const Real* initial;  // (sequence, channel, state), or null
  Stored* y;            // (sequence, time, channel)
  Real* last;           // (sequence, channel, state), where there is one span; else what the spans pass on:
  Real* states;         // (sequence, span, channel, state), end states,
  Real* totals;         // (sequence, span, channel), and the sums of the step sizes
};

// A tile of outputs before skip and gate. Rows are padded so that the lanes of a warp write to different banks.
struct OutputTile {
  union {
    Real at[kTile][kChannels + 8];
    ChannelReals packs[kTile][kPacksPerStep + 8 / kVector];
  };

  // Lane `state_lane` of each channel stores the outputs of the steps it is left with.
  INLINE void store(int first_step, Real (&y)[kSteps], const Seat& seat) {
    sum_over_states(y, seat.lane);
#pragma unroll
    for (int i = 0; i < (kSteps + kStateLanes - 1) / kStateLanes; ++i) {
      const int step = i * kStateLanes + seat.state_lane;
      if (step < kSteps) at[first_step + step][seat.channel] = y[i];
    }
  }

  // Adds the skip, applies the gate, and writes to global memory.
  INLINE void write(const Cursor<Stored>& to, int steps, const ChannelTile& u, const ChannelTile& z,
                    const ChannelReals& skip, const Mover& mover) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!mover.moves(i, steps)) continue;
      ChannelReals values = packs[mover.step(i)][mover.column / kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if constexpr (kHasD) values.at[v] += skip.at[v] * u.packs[i].at(v);
        if constexpr (kHasZ) {
          const Real gate = z.packs[i].at(v);
          values.at[v] *= gate * sigmoid(gate);
        }
      }
      store_pack(to(i), values);
    }
  }
};

// The part of C_t . h_t that this thread's states make.
INLINE Real output(const StateRows& C, int step, const Seat& seat, const Real (&h)[kStatesPerThread]) {
  const StateVector c = C.of(step, seat);
  Real y = Real(0);
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) y += c.at[j] * h[j];
  return y;
}

// The way of all operands to shared memory: a thread's share of the next tile.
struct OperandLoader {
  InputLoader inputs;
  Cursor<const Stored> z_from = {};
  const Stored* C_from;
  Index C_time;
  StateTile C;
  ChannelTile z;

  INLINE OperandLoader(const ForwardArguments& p, const Place& place, const Mover& mover)
      : inputs(p.u, p.delta, p.B, place, p.sizes, mover),
        C_from(place.at(p.C) + place.start * p.C.time),
        C_time(p.C.time) {
    if constexpr (kHasZ) z_from = cursor(p.z, place, p.sizes, mover, place.start);
  }

  // Loads the next tile, of which `steps` steps exist.
  INLINE void load(int steps, const Mover& mover, int thread) {
    inputs.load(steps, kTile, mover, thread);
    C.load(C_from, C_time, steps, thread);
    C_from += kTile * C_time;
    if constexpr (kHasZ) {
      z.load(z_from, steps, mover);
      z_from.move(kTile);
    }
  }
};

struct ForwardTile {
  InputTile input;
  StateRows C;
  OutputTile y;
};

struct ForwardShared {
  ForwardTile tiles[2];
};

EXPORTED_SIZE(forward_shared_bytes, ForwardShared)

INLINE void run(ForwardTile& tile, Real (&h)[kStatesPerThread], Real& elapsed, const Seat& seat,
                const Real (&rates)[kStatesPerThread]) {
  Real y[kSteps];
  run_tile(
      tile.input, seat, rates,
      [&](int first, int i, const auto& ahead, int k) {
        const bool reset = kHasReset && tile.input.reset[first + i];
        advance(h, ahead.decays[k], ahead.inputs[k], reset);
        if constexpr (kSpanned) elapsed = reset ? endless<Real>() : elapsed + ahead.sizes[k];
        y[i] = output(tile.C, first + i, seat, h);
      },
      [&](int first) { tile.y.store(first, y, seat); });
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_forward(const ForwardArguments p) {
  SHARED_MEMORY(ForwardShared, shared);
  const int thread = threadIdx.x;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(place, thread);
  const Mover mover(place, thread);
  const ChannelReals bias = mover.parameter(p.bias, place, p.sizes);
  const ChannelReals skip = mover.parameter(p.D, place, p.sizes);

  Real rates[kStatesPerThread], h[kStatesPerThread];
  read_rates(p.A, place, p.sizes, seat, rates);
  read_states(place.span == 0 ? part(p.initial, place.sequence, p.sizes) : nullptr, place, seat, h);
  Real elapsed = Real(0);  // since the span's start; endless after a reset, when nothing from before remains

  OperandLoader next(p, place, mover);
  ChannelTile u, z;  // of the tile whose outputs are not yet written
  Cursor<Stored> y_to = cursor(p.y, place, p.sizes, mover, place.start);
  int steps = place.stop - place.start;  // left to do
  next.load(steps, mover, thread);
  int parity = 0;
#pragma unroll 1
  for (bool first = true; steps > 0; steps -= kTile, parity ^= 1, first = false) {
    ForwardTile& tile = shared.tiles[parity];
    next.inputs.store(tile.input, bias, steps, mover, thread);
    next.C.store(tile.C, thread);
    load_resets(place, p.reset, place.stop - steps, steps, thread, tile.input.reset);
    synchronize_block();
    if (!first) {
      shared.tiles[parity ^ 1].y.write(y_to, kTile, u, z, skip, mover);
      y_to.move(kTile);
    }
    u = next.inputs.u;
    z = next.z;
    if (steps > kTile) next.load(steps - kTile, mover, thread);
    run(tile, h, elapsed, seat, rates);
  }
  synchronize_block();
  shared.tiles[parity ^ 1].y.write(y_to, steps + kTile, u, z, skip, mover);
  if constexpr (kSpanned) pass_on(p.states, p.totals, h, elapsed, place, p.sizes, seat);
  else write_states(part(p.last, place.sequence, p.sizes), place, seat, h);
}
