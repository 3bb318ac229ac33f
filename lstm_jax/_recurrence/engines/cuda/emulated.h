// The words of machine.cuh for a CPU: a thread of the GPU is one of the CPU.
//
// emulator.cc starts the threads and owns what they wait at. Barriers are all that orders memory,
// as on a GPU, so that a thread sanitizer sees where one is missing.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE inline
#define UNROLL
#define UNROLL_4
#define INFINITE INFINITY
#define NOT_A_NUMBER NAN

struct alignas(16) Words {
  uint32_t of[4];
};

// What a thread knows of itself.
struct Thread {
  int thread, block, blocks, rank;
  char* const* shared;  // the memory of each block of the cluster
  void (*block_barrier)(Thread*);
  void (*cluster_barrier)(Thread*);
  void (*warp_barrier)(Thread*);
  Words* warp;  // four of each thread of the warp
  void* barriers;
};
static thread_local Thread* self;

INLINE int thread() { return self->thread; }
INLINE int block() { return self->block; }
INLINE int all_blocks() { return self->blocks; }
INLINE char* shared_memory() { return self->shared[self->rank]; }
template <class T>
INLINE T* in_block(T* here, int rank) {
  return (T*)(self->shared[rank] + ((char*)here - shared_memory()));
}

INLINE void block_barrier() { self->block_barrier(self); }
INLINE void cluster_barrier() { self->cluster_barrier(self); }
INLINE void arrive(uint32_t* count) { __atomic_fetch_add(count, 1, __ATOMIC_RELEASE); }
extern "C" int sched_yield(void);
INLINE void wait_for(const uint32_t* count, uint32_t most) {
  while (__atomic_load_n(count, __ATOMIC_ACQUIRE) < most) sched_yield();
}
template <class T>
INLINE T fresh(const T* from) {
  return *from;
}

INLINE float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
// To float16 and back: the digits below the last one of float16 go, to the nearest or the even one.
INLINE float to_half(float x) {
  const float size = fabsf(x);
  if (!(size < 65520.f)) return x != x ? x : copysignf(INFINITY, x);
  int exponent;
  frexpf(size, &exponent);
  const float unit = ldexpf(1.f, (exponent < -13 ? -13 : exponent) - 11);
  return copysignf(nearbyintf(size / unit) * unit, x);
}
INLINE float from_bits(uint16_t bits) { return as_float(uint32_t(bits) << 16); }
INLINE uint16_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The operands of the whole warp lie in `warp` while each thread computes its part.
INLINE void multiply_tile(float (&c)[4], const Words& a, uint32_t b_0, uint32_t b_1) {
  const int lane = self->thread % 32, group = lane / 4;
  Words* const all = self->warp;
  all[2 * lane] = a;
  all[2 * lane + 1] = {{b_0, b_1, 0, 0}};
  self->warp_barrier(self);
  auto number = [](uint32_t word, int k) { return from_bits(uint16_t(word >> (16 * (k % 2)))); };
  auto a_at = [&](int m, int k) {
    return number(all[2 * (m % 8 * 4 + k % 8 / 2)].of[m / 8 + 2 * (k / 8)], k);
  };
  auto b_at = [&](int k, int n) { return number(all[2 * (n * 4 + k % 8 / 2) + 1].of[k / 8], k); };
  for (int i = 0; i < 4; i++) {
    const int m = group + 8 * (i / 2), n = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) c[i] += a_at(m, k) * b_at(k, n);
  }
  self->warp_barrier(self);
}

#define KERNEL(in)                                             \
  static void body(const Arguments& in);                       \
  extern "C" __attribute__((visibility("default"))) void kernel(Thread* thread, const Arguments* in) { \
    self = thread;                                             \
    body(*in);                                                 \
  }                                                            \
  static void body(const Arguments& in)
