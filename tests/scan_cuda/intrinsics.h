// Stands in for the kernels' intrinsics.h when the host compiles them: the threads of a block are contexts
// that take turns, each running to its next barrier or exchange. ThreadSanitizer, where it is on, takes every
// context for a thread of its own (a fiber), so that it sees accesses that no barrier orders.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#define __host__
#define __device__
#define __restrict__
#define __launch_bounds__(...)
#define INLINE inline
#define KERNEL extern "C"
#define SHARED_MEMORY(Type, name) Type& name = *reinterpret_cast<Type*>(host_block.shared)
#define EXPORTED_SIZE(name, Type) extern "C" const int name = sizeof(Type);

constexpr int kHostWarp = 32;
constexpr size_t kHostStack = 1 << 16;

#ifdef __SANITIZE_THREAD__
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}

// While one lives, what the thread does is the simulation's own and not watched. Memory allocated
// meanwhile is new to the sanitizer, whatever lay at its address before.
struct Unwatched {
  Unwatched() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unwatched() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

using Fiber = void*;
inline Fiber current_fiber() { return __tsan_get_current_fiber(); }
inline Fiber new_fiber() { return __tsan_create_fiber(0); }
inline void end_fiber(Fiber fiber) { __tsan_destroy_fiber(fiber); }
inline void enter_fiber(Fiber fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
inline void arrive(char& meeting) { __tsan_release(&meeting); }
inline void meet(char& meeting) { __tsan_acquire(&meeting); }
#else
struct Unwatched {
  Unwatched() {}
};

using Fiber = void*;
inline Fiber current_fiber() { return nullptr; }
inline Fiber new_fiber() { return nullptr; }
inline void end_fiber(Fiber) {}
inline void enter_fiber(Fiber) {}
inline void arrive(char&) {}
inline void meet(char&) {}
#endif

struct HostIndex {
  unsigned x;
};

struct HostContext {
  ucontext_t start;
  jmp_buf reached;
  bool started;
  Fiber fiber;
};

// As `swapcontext`, which asks the system each time for the signals that are blocked.
inline void host_switch(HostContext& from, HostContext& to) {
  if (_setjmp(from.reached)) return;
  bool started;
  {
    const Unwatched unwatched;
    started = std::exchange(to.started, true);
  }
  enter_fiber(to.fiber);
  if (started) _longjmp(to.reached, 1);
  setcontext(&to.start);
}

struct HostThread {
  HostContext context;
  std::unique_ptr<char[]> stack;
  bool finished;
  int barriers, warp_barriers, exchanges;
};

// What orders memory: two in turn, as a thread may be at the next barrier before all have left one.
struct HostMeetings {
  char of_block[2], of_warp[32][2];
};

struct HostBlock {
  int number = 0;  // of all that ran
  std::vector<HostThread> threads;
  std::vector<double> slots;  // one of each parity a thread, for exchanges
  std::vector<int> warp_exchanges;  // of all lanes of a warp together
  int barriers;  // of all threads together
  int barriers_of_finished;  // of the finished thread that was at the fewest
  unsigned char* shared = nullptr;
  std::unique_ptr<HostMeetings> meetings;
  char end_of_launch;
  HostContext launch;
  int running = 0;
};

static HostBlock host_block;
static HostIndex threadIdx, blockIdx, gridDim;

// The thread whose turn is next, or the one that runs where no other is left.
inline HostThread& host_next() {
  const int count = host_block.threads.size();
  int& running = host_block.running;
  const int before = running;
  do running = (running + 1) % count;
  while (host_block.threads[running].finished && running != before);
  threadIdx.x = running;
  return host_block.threads[running];
}

inline void host_yield() {
  const Unwatched unwatched;
  HostThread& thread = host_block.threads[host_block.running];
  host_switch(thread.context, host_next().context);
}

// Every thread of the block must arrive: a thread that returned early is a fault in the kernel.
inline void synchronize_block() {
  const Unwatched unwatched;
  const int target = ++host_block.threads[host_block.running].barriers;
  const int all = target * host_block.threads.size();
  char& meeting = host_block.meetings->of_block[target % 2];
  arrive(meeting);
  ++host_block.barriers;  // Nobody is at the next barrier before all are at this one.
  while (host_block.barriers < all) {
    if (host_block.barriers_of_finished < target) std::fprintf(stderr, "a thread left before a barrier\n"), std::abort();
    host_yield();
  }
  meet(meeting);
}

// Orders nothing in memory, as on the GPU.
template <typename Number>
Number exchange(Number x, int lanes) {
  const Unwatched unwatched;
  const int thread = host_block.running, warp = thread / kHostWarp * kHostWarp;
  const int count = ++host_block.threads[thread].exchanges, parity = count % 2;
  host_block.slots[2 * thread + parity] = x;
  const int all = count * std::min<int>(kHostWarp, host_block.threads.size() - warp);
  int& exchanges = host_block.warp_exchanges[thread / kHostWarp];
  ++exchanges;
  while (exchanges < all) host_yield();
  return static_cast<Number>(host_block.slots[2 * (warp + ((thread - warp) ^ lanes)) + parity]);
}

inline bool any_of_warp(bool x) {
  for (int bit = 1; bit < kHostWarp; bit *= 2) x |= exchange(static_cast<int>(x), bit) != 0;
  return x;
}

inline void synchronize_warp() {
  const Unwatched unwatched;
  const int thread = host_block.running;
  char& meeting = host_block.meetings->of_warp[thread / kHostWarp][++host_block.threads[thread].warp_barriers % 2];
  arrive(meeting);
  exchange(0.0f, 0);
  meet(meeting);
}

float leading_part(float x);
constexpr bool kHasMatrixUnit = true;

// As on the matrix unit, element by element; see the GPU's intrinsics.h for who holds what.
inline void multiply_matrices(float (&sums)[4], const float (&a)[4], float b0, float b1, bool fresh) {
  const Unwatched unwatched;
  float left[16][8], right[8][8];
  const int lane = host_block.running % kHostWarp, base = host_block.running - lane;
  const float mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 6; ++i) {
    exchange(mine[i], 0);
    const int parity = host_block.threads[host_block.running].exchanges % 2;
    for (int other = 0; other < kHostWarp; ++other) {
      const float x = leading_part(static_cast<float>(host_block.slots[2 * (base + other) + parity]));
      if (i < 4) left[other / 4 + i % 2 * 8][other % 4 + i / 2 * 4] = x;
      else right[other % 4 + (i - 4) * 4][other / 4] = x;
    }
  }
  for (int i = 0; i < 4; ++i) sums[i] = fresh ? 0.0f : sums[i];
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 8; ++k) sums[i] += left[lane / 4 + i / 2 * 8][k] * right[k][lane % 4 * 2 + i % 2];
}

inline float float_of_bits(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline void store_four(float* to, float a, float b, float c, float d) { to[0] = a, to[1] = b, to[2] = c, to[3] = d; }
inline void prefetch_line(const void*) {}

inline unsigned bits_of_float(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float magnitude(float x) { return std::fabs(x); }
inline double magnitude(double x) { return std::fabs(x); }
inline float larger(float x, float y) { return std::fmax(x, y); }
inline double larger(double x, double y) { return std::fmax(x, y); }
inline float smaller(float x, float y) { return std::fmin(x, y); }
inline float opaque(float x) { return x; }
inline float leading_part(float x) { return float_of_bits(bits_of_float(x) & 0xffffe000u); }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f : x; }
inline float fast_exp2(float x) { return flushed(std::exp2(x)); }
inline float fast_reciprocal(float x) { return 1.0f / x; }
inline float reciprocal_root(float x) { return 1.0f / std::sqrt(x); }

inline float half_to_float(unsigned short bits) {
  _Float16 x;
  std::memcpy(&x, &bits, sizeof x);
  return static_cast<float>(x);
}

inline unsigned floats_to_halves(float low, float high) {
  const _Float16 halves[2] = {static_cast<_Float16>(low), static_cast<_Float16>(high)};
  unsigned word;
  std::memcpy(&word, halves, sizeof word);
  return word;
}

inline unsigned float_to_bfloat(float x) {
  const unsigned bits = bits_of_float(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

inline unsigned floats_to_bfloats(float low, float high) { return float_to_bfloat(low) | float_to_bfloat(high) << 16; }

template <typename Number>
Number endless() {
  return std::numeric_limits<Number>::infinity();
}

// One launch ends before the next begins.
inline void let_next_begin() {}
inline void wait_for_kernel_before() {}

// Atomic to the sanitizer; nothing interrupts it, so that it need not be one operation.
template <typename Number>
void add_to_memory(Number* to, Number x) {
  Number sum;
  __atomic_load(to, &sum, __ATOMIC_RELAXED);
  sum += x;
  __atomic_store(to, &sum, __ATOMIC_RELAXED);
}

template <typename Number>
void add_to_memory(Number* to, Number a, Number b, Number c, Number d) {
  add_to_memory(to, a), add_to_memory(to + 1, b), add_to_memory(to + 2, c), add_to_memory(to + 3, d);
}

// Runs `kernel(arguments)` for every block, with shared memory and stacks filled with NaN at the start.
// Nothing orders the threads of different blocks; the launch ends after all of them.
template <typename Arguments>
void host_launch(void (*kernel)(Arguments), int blocks, int threads, int shared_bytes, const Arguments& arguments) {
  const Unwatched unwatched;
  static void (*entry)(Arguments);
  static const Arguments* given;
  entry = kernel, given = &arguments;
  host_block.launch.fiber = current_fiber();
  host_block.launch.started = true;
  gridDim.x = blocks;
  host_block.threads.resize(threads);
  host_block.slots.assign(2 * threads, 0.0);
  for (int block = 0; block < blocks; ++block) {
    blockIdx.x = block;
    ++host_block.number;
    std::vector<double> shared(shared_bytes / sizeof(double) + 129);
    host_block.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<size_t>(shared.data()) + 1023) / 1024 * 1024);
    std::memset(shared.data(), 0xff, shared.size() * sizeof(double));
    host_block.meetings = std::make_unique<HostMeetings>();
    host_block.warp_exchanges.assign((threads + kHostWarp - 1) / kHostWarp, 0);
    host_block.barriers = 0, host_block.barriers_of_finished = std::numeric_limits<int>::max();
    for (HostThread& thread : host_block.threads) {
      thread.stack.reset();
      thread.stack.reset(new char[kHostStack]);
      std::memset(thread.stack.get(), 0xff, kHostStack);  // Whatever is read before it is written is NaN.
      thread.finished = false;
      thread.barriers = thread.warp_barriers = thread.exchanges = 0;
      thread.context.fiber = new_fiber();
      thread.context.started = false;
      ucontext_t& start = thread.context.start;
      getcontext(&start);
      start.uc_stack.ss_sp = thread.stack.get();
      start.uc_stack.ss_size = kHostStack;
      start.uc_link = nullptr;
      void (*run)() = [] {
        entry(*given);
        HostContext *own, *next = &host_block.launch;
        {
          const Unwatched unwatched_end;
          arrive(host_block.end_of_launch);
          HostThread& ended = host_block.threads[host_block.running];
          own = &ended.context, ended.finished = true;
          host_block.barriers_of_finished = std::min(host_block.barriers_of_finished, ended.barriers);
          HostThread& other = host_next();
          if (!other.finished) next = &other.context;
        }
        host_switch(*own, *next);
      };
      makecontext(&start, run, 0);
    }
    host_block.running = threadIdx.x = 0;
    host_switch(host_block.launch, host_block.threads[0].context);
    for (HostThread& thread : host_block.threads) {
      if (thread.stack[0] != '\xff') std::fprintf(stderr, "a thread's stack is too small\n"), std::abort();
      end_fiber(thread.context.fiber);
    }
  }
  meet(host_block.end_of_launch);
  host_block.threads.clear();  // Each kernel has a block of its own: together, their stacks take gigabytes.
}
