// The state without the output: tile states for the reverse pass, and what each span of the length passes
// to the next one (its end state from a zero start) and to the one before it (its adjoint from a zero end).
#include "letters.cuh"
#include "recurrence.cuh"

struct SweepArguments {
  Sizes sizes;
  Sequences u, delta, z, dy;
  StateSequences B, C;
  Resets reset;
  const Real *A, *bias;
  const Real* initial;      // (sequence, channel, state) or null; read where there is one span (not kSpanned)
  TileStates tile_states;  // of the states
  // Where there are several spans (kSpanned); the last three are null where spans write letters:
  TileStates elapsed;  // of the time since the span's start
  Real* states;         // (sequence, span, channel, state): end states
  Real* adjoints;       // the same shape
  Real* totals;         // (sequence, span, channel): the sum of the step sizes
  // Sums that the reverse pass adds to: here they become zero, so many numbers of each; 0 where nothing is added.
  Real *dB, *dC, *parameters;
  Index grouped, of_parameters;
};

struct SweepTile {
  InputTile input;
  StateRows C;  // where kSpanned
  ChannelReals dy[kSpanned ? kTile : 1][kPacksPerStep];
};

struct SweepShared {
  SweepTile tiles[2];
};

EXPORTED_SIZE(sweep_shared_bytes, SweepShared)

INLINE void clear(Real* sums, Index count) {
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += Index(gridDim.x) * kThreads)
    sums[i] = Real(0);
}

// The gradient of the output before its gate.
INLINE ChannelReals output_gradient(const ChannelPack& dy, const ChannelPack& z) {
  ChannelReals values;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    values.at[v] = dy.at(v);
    if constexpr (kHasZ) values.at[v] *= z.at(v) * sigmoid(z.at(v));
  }
  return values;
}

KERNEL void __launch_bounds__(kThreads, kBlocksPerProcessor) keelback_sweep(const SweepArguments p) {
  SHARED_MEMORY(SweepShared, shared);
  clear(p.dB, p.grouped);
  clear(p.dC, p.grouped);
  clear(p.parameters, p.of_parameters);
  const int thread = threadIdx.x;
  const Place place(p.sizes, blockIdx.x);
  const Seat seat(place, thread);
  const Mover mover(place, thread);
  const TileCut cut(place);
  const ChannelReals bias = mover.parameter(p.bias, place, p.sizes);

  Real rates[kStatesPerThread], h[kStatesPerThread];
  read_rates(p.A, place, p.sizes, seat, rates);
  read_states(kSpanned ? nullptr : part(p.initial, place.sequence, p.sizes), place, seat, h);
  Real reach[kStatesPerThread], adjoint[kStatesPerThread];  // the decay since the span's start
#pragma unroll
  for (int j = 0; j < kStatesPerThread; ++j) reach[j] = Real(1), adjoint[j] = Real(0);
  Real elapsed = Real(0);  // since the span's start; endless after a reset, when nothing from before remains

  InputLoader next(p.u, p.delta, p.B, place, p.sizes, mover);
  const Stored* C_from = nullptr;
  Cursor<const Stored> dy_from = {}, z_from = {};
  if constexpr (kSpanned) {
    C_from = place.at(p.C) + place.start * p.C.time;
    dy_from = cursor(p.dy, place, p.sizes, mover, place.start);
    if constexpr (kHasZ) z_from = cursor(p.z, place, p.sizes, mover, place.start);
  }
  StateTile next_C;
  ChannelTile next_dy, next_z;
  auto load = [&](int steps) {
    next.load(steps, steps, mover, thread);
    if constexpr (kSpanned) {
      next_C.load(C_from, p.C.time, steps, thread);
      C_from += steps * p.C.time;
      next_dy.load(dy_from, steps, mover);
      dy_from.move(steps);
      if constexpr (kHasZ) {
        next_z.load(z_from, steps, mover);
        z_from.move(steps);
      }
    }
  };

  load(cut.steps_of(0));
  int parity = 0;
#pragma unroll 1
  for (int index = 0; index < cut.count; ++index, parity ^= 1) {
    SweepTile& tile = shared.tiles[parity];
    const int steps = cut.steps_of(index);
    next.store(tile.input, bias, steps, mover, thread);
    if constexpr (kSpanned) {
      next_C.store(tile.C, thread);
#pragma unroll
      for (int i = 0; i < kPacks; ++i)
        if (mover.step(i) < kTile)
          tile.dy[mover.step(i)][mover.column / kVector] = output_gradient(next_dy.packs[i], next_z.packs[i]);
    }
    load_resets(place, p.reset, cut.start_of(index), steps, thread, tile.input.reset);
    synchronize_block();
    if (index + 1 < cut.count) load(kTile);
    if (index > 0) {
      write_tile_state(p.tile_states, place, p.sizes, cut, index, seat, h);
      if (kSpanned && seat.active && seat.state_lane == 0)
        write_rows(tile_state_at(p.elapsed, place, p.sizes, cut, index, seat.channel), p.sizes.channels, elapsed);
    }
    auto step = [&](int first, int i, const auto& ahead, int k) {
      const bool reset = kHasReset && tile.input.reset[first + i];
      advance(h, ahead.decays[k], ahead.inputs[k], reset);
      if constexpr (kSpanned) {
        elapsed = reset ? endless<Real>() : elapsed + ahead.sizes[k];
        const StateVector c = tile.C.of(first + i, seat);
        const Real dy = (&tile.dy[first + i][0].at[0])[seat.channel];
#pragma unroll
        for (int j = 0; j < kStatesPerThread; ++j) {
          reach[j] = reset ? Real(0) : reach[j] * ahead.decays[k][j];
          adjoint[j] += reach[j] * (c.at[j] * dy);
        }
      }
    };
    run_tile(tile.input, seat, rates, step, [](int) {});
  }

  if constexpr (kSpanned) {
    if (p.states == nullptr) {
      write_letters(p.tile_states, place, p.sizes, seat, h, adjoint, elapsed);
    } else {
      pass_on(p.states, p.totals, h, elapsed, place, p.sizes, seat);
      write_states(part(p.adjoints, place.sequence_span, p.sizes), place, seat, adjoint);
    }
  }
}
