// Groups of a GPU's blocks as threads of a CPU; what they run is compiled with emulated.h.

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "thread.h"

struct Barrier {
  pthread_barrier_t of;
  explicit Barrier(int threads) { pthread_barrier_init(&of, nullptr, threads); }
  Barrier(const Barrier&) = delete;
  ~Barrier() { pthread_barrier_destroy(&of); }
};

struct Barriers {
  pthread_barrier_t *warp, *block, *cluster;
};

using Kernel = void (*)(Thread*, const void*);

// Runs blocks [first, first + blocks), all at the same time.
inline void run_group(Kernel kernel, const void* arguments, int first, int blocks, int threads,
                      size_t shared) {
  const int warps = threads / 32;
  // Memory is no more zero than a GPU's.
  std::vector<std::vector<char>> memories(blocks, std::vector<char>(shared + 16, char(0xcd)));
  std::vector<char*> places;
  for (std::vector<char>& memory : memories)
    places.push_back(memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16);
  std::vector<std::vector<char>> of_warps(blocks * warps, std::vector<char>(64 * 16));
  std::vector<std::unique_ptr<Barrier>> warp, block;
  Barrier cluster(blocks * threads);
  for (int k = 0; k < blocks * warps; k++) warp.push_back(std::make_unique<Barrier>(32));
  for (int k = 0; k < blocks; k++) block.push_back(std::make_unique<Barrier>(threads));
  std::vector<Barriers> barriers(blocks * threads);
  std::vector<std::thread> started;
  for (int b = 0; b < blocks; b++)
    for (int k = 0; k < threads; k++) {
      const int w = b * warps + k / 32;
      barriers[b * threads + k] = {&warp[w]->of, &block[b]->of, &cluster.of};
      Thread self{
          k, first + b, b, places.data(),
          [](Thread* t) { pthread_barrier_wait(static_cast<Barriers*>(t->barriers)->block); },
          [](Thread* t) { pthread_barrier_wait(static_cast<Barriers*>(t->barriers)->cluster); },
          [](Thread* t) { pthread_barrier_wait(static_cast<Barriers*>(t->barriers)->warp); },
          reinterpret_cast<Words*>(of_warps[w].data()), &barriers[b * threads + k]};
      started.emplace_back([=]() mutable { kernel(&self, arguments); });
    }
  for (std::thread& thread : started) thread.join();
}
