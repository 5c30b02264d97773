// Stands in for the kernels' bulk_intrinsics.h on the host: a copy is made when it is started, or when a thread first
// waits for its barrier, one as often as the other, so that starting too early and not waiting both show.
#pragma once

#include <map>

#include "matrix_intrinsics.h"

#define GRID_CONSTANT

// What the tests' tensor maps hold.
struct alignas(64) TensorMap {
  const unsigned char* first;
  long long sizes[4];    // number, head, time, row
  long long strides[3];  // of head, time and row, in bytes
  int box[4], element_bytes, pitch;
};

struct alignas(8) CopyBarrier {
  unsigned long long opaque;
};

struct HostCopyBarrier {
  long long missing = 0;
  bool arrived = false;
  int phase = 0;
  std::deque<std::function<void()>> late;
  char meeting[2], started;
};

static std::map<const CopyBarrier*, HostCopyBarrier> host_barriers;
static int host_barriers_block = 0;
static unsigned host_chance = 1;

inline HostCopyBarrier& host_barrier(const CopyBarrier& barrier, bool fresh = false) {
  const Unwatched unwatched;
  if (host_barriers_block != host_block.number) {
    host_barriers.clear();
    host_barriers_block = host_block.number;
  }
  if (!fresh && !host_barriers.count(&barrier)) std::fprintf(stderr, "a barrier is not set up\n"), std::abort();
  return host_barriers[&barrier];
}

inline void set_up(CopyBarrier& barrier) { host_barrier(barrier, true); }
inline void publish_barriers() {}

inline void host_pass(HostCopyBarrier& barrier) {
  if (!barrier.arrived || barrier.missing) return;
  ++barrier.phase, barrier.arrived = false;
}

inline void expect_bytes(CopyBarrier& barrier, int bytes) {
  HostCopyBarrier& host = host_barrier(barrier);
  const Unwatched unwatched;
  if (host.arrived) std::fprintf(stderr, "a barrier's phase began twice\n"), std::abort();
  host.missing += bytes, host.arrived = true;
  arrive(host.meeting[host.phase % 2]);
  host_pass(host);
}

inline void host_start(CopyBarrier& barrier, int bytes, std::function<void()> copy) {
  HostCopyBarrier& host = host_barrier(barrier);
  bool early;
  {
    const Unwatched unwatched;
    host_chance = host_chance * 1664525u + 1013904223u;
    early = host_chance >> 31;
  }
  // Several threads may make the copies of a phase; who waits for it has to see all of them.
  const auto make = [copy, bytes, &host] {
    copy();
    const Unwatched unwatched;
    arrive(host.meeting[host.phase % 2]);
    host.missing -= bytes;
  };
  if (early) {
    make();
    const Unwatched unwatched;
    host_pass(host);
  } else {
    const Unwatched unwatched;
    arrive(host.started);  // What came before the start comes before the copy, whoever makes it.
    host.late.push_back(make);
  }
}

inline void wait_for_bytes(CopyBarrier& barrier, int parity) {
  HostCopyBarrier& host = host_barrier(barrier);
  for (;;) {
    std::function<void()> copy;
    {
      const Unwatched unwatched;
      if (host.phase % 2 != parity) {
        meet(host.meeting[parity]);
        return;
      }
      if (host.late.empty()) {
        host_pass(host);
        if (host.phase % 2 == parity) host_yield();
        continue;
      }
      copy = host.late.front();
      host.late.pop_front();
      meet(host.started);
    }
    copy();
    const Unwatched unwatched;
    host_pass(host);
  }
}

// `visit(panel, array, present)` for every 16 bytes of a box: where they lie in a panel, and in the array if they are there.
template <typename Visit>
void host_visit_box(const void* panel, const TensorMap& map, int number, int head, int time, int row, Visit visit) {
  const int columns = map.box[0], rows = map.box[2], size = map.element_bytes;
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns * size; j += 16) {
      size_t at = reinterpret_cast<size_t>(panel) + i * map.pitch + j;
      at ^= at >> 3 & (map.pitch == 128 ? 0x70 : 0x30);
      const long long place[4] = {number + j / size, head, time + i, row};
      bool present = true;
      for (int axis = 0; axis < 4; ++axis) present &= place[axis] >= 0 && place[axis] < map.sizes[axis];
      const unsigned char* in_array = map.first + place[0] * size;
      for (int axis = 1; axis < 4; ++axis) in_array += place[axis] * map.strides[axis - 1];
      visit(reinterpret_cast<void*>(at), const_cast<unsigned char*>(in_array), present);
    }
}

inline void host_check_box(const void* panel, const TensorMap& map) {
  if (reinterpret_cast<size_t>(panel) % 1024) std::fprintf(stderr, "a panel is not aligned\n"), std::abort();
  if (map.box[0] * map.element_bytes != map.pitch || map.box[1] != 1 || map.box[3] != 1) std::abort();
}

inline void copy_box(void* to, const TensorMap& map, int number, int head, int time, int row, CopyBarrier& barrier) {
  host_check_box(to, map);
  host_start(barrier, map.pitch * map.box[2], [=, map = &map] {
    host_visit_box(to, *map, number, head, time, row, [](void* panel, const void* array, bool present) {
      if (present) std::memcpy(panel, array, 16);
      else std::memset(panel, 0, 16);
    });
  });
}

static std::vector<std::deque<std::function<void()>>> host_stores;
static int host_storing_block = 0;

inline std::deque<std::function<void()>>& stores_of_thread() {
  const Unwatched unwatched;
  if (host_storing_block != host_block.number) {
    for (const auto& stores : host_stores) {
      if (!stores.empty()) std::fprintf(stderr, "a block ended before it waited for its stores\n"), std::abort();
    }
    host_stores.assign(host_block.threads.size(), {});
    host_storing_block = host_block.number;
  }
  return host_stores[host_block.running];
}

// Made no sooner than the thread waits for it.
inline void store_box(const TensorMap& map, const void* from, int number, int head, int time, int row) {
  host_check_box(from, map);
  std::deque<std::function<void()>>& stores = stores_of_thread();
  const Unwatched unwatched;
  stores.push_back([=, map = &map] {
    host_visit_box(from, *map, number, head, time, row, [](const void* panel, void* array, bool present) {
      if (present) std::memcpy(array, panel, 16);
    });
  });
}

inline void wait_for_stores() {
  std::deque<std::function<void()>>& stores = stores_of_thread();
  for (;;) {
    std::function<void()> store;
    {
      const Unwatched unwatched;
      if (stores.empty()) return;
      store = stores.front();
      stores.pop_front();
    }
    store();
  }
}

inline void copy_bytes(void* to, const void* from, int bytes, CopyBarrier& barrier) {
  if (reinterpret_cast<size_t>(to) % 16 || reinterpret_cast<size_t>(from) % 16 || bytes % 16) {
    std::fprintf(stderr, "a copy in bulk is not aligned\n"), std::abort();
  }
  host_start(barrier, bytes, [=] {
    for (int i = 0; i < bytes; i += 16) std::memcpy(static_cast<char*>(to) + i, static_cast<const char*>(from) + i, 16);
  });
}

inline int count_in(int& counter) {
  const Unwatched unwatched;
  char& meeting = reinterpret_cast<char&>(counter);
  arrive(meeting), meet(meeting);
  return counter++;
}

static std::vector<int> host_group_arrivals;
static int host_groups_block = 0;
static char host_group_meetings[8][2];

// Every thread of the warpgroup must arrive.
inline void synchronize_group(int group) {
  const Unwatched unwatched;
  if (host_groups_block != host_block.number) {
    host_group_arrivals.assign(host_block.threads.size(), 0);
    host_groups_block = host_block.number;
  }
  const int thread = host_block.running, first = thread / 128 * 128;
  if (thread / 128 != group) std::fprintf(stderr, "a thread is not of this warpgroup\n"), std::abort();
  const int target = ++host_group_arrivals[thread];
  arrive(host_group_meetings[group][target % 2]);
  for (bool all = false; !all;) {
    all = true;
    for (int other = first; other < first + 128; ++other) all &= host_group_arrivals[other] >= target;
    if (!all) host_yield();
  }
  meet(host_group_meetings[group][target % 2]);
}

struct HostMeetingPlace {
  int arrivals = 0;
  char meeting[2];
};
static HostMeetingPlace host_places[16];
static int host_places_block = 0;

// How many are to have arrived, all phases counted, before this one may go on.
inline int arrive_at(int barrier, int threads) {
  const Unwatched unwatched;
  if (host_places_block != host_block.number) {
    for (HostMeetingPlace& place : host_places) place.arrivals = 0;
    host_places_block = host_block.number;
  }
  HostMeetingPlace& place = host_places[barrier];
  const int phase = place.arrivals++ / threads;
  arrive(place.meeting[phase % 2]);
  return (phase + 1) * threads;
}

inline void wait_at(int barrier, int threads) {
  const int target = arrive_at(barrier, threads);
  const Unwatched unwatched;
  HostMeetingPlace& place = host_places[barrier];
  while (place.arrivals < target) host_yield();
  meet(place.meeting[(target / threads - 1) % 2]);
}

template <int>
void take_registers() {}
template <int>
void leave_registers() {}
