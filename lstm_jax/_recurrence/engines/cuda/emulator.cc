// Runs a kernel of emulated.h as XLA's call of a library: a thread for each thread of the GPU.
//
// Groups of blocks run one after another, the blocks of a group at the same time.

#include <dlfcn.h>
#include <pthread.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

struct Words;
// As in emulated.h.
struct Thread {
  int thread, block, blocks, rank;
  char* const* shared;
  void (*block_barrier)(Thread*);
  void (*cluster_barrier)(Thread*);
  void (*warp_barrier)(Thread*);
  Words* warp;
  void* barriers;
};

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

void run_group(Kernel kernel, const void* arguments, int first, int blocks, int all, int threads,
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
          k, first + b, all, b, places.data(),
          [](Thread* t) { pthread_barrier_wait(static_cast<Barriers*>(t->barriers)->block); },
          [](Thread* t) { pthread_barrier_wait(static_cast<Barriers*>(t->barriers)->cluster); },
          [](Thread* t) { pthread_barrier_wait(static_cast<Barriers*>(t->barriers)->warp); },
          reinterpret_cast<Words*>(of_warps[w].data()), &barriers[b * threads + k]};
      started.emplace_back([=]() mutable { kernel(&self, arguments); });
    }
  for (std::thread& thread : started) thread.join();
}

// The numbers of a launch, as launch.py lists them.
struct Launch {
  int32_t steps, batch, reverse, groups, blocks, threads, shared, meeting;
};
constexpr int GRID = 2;

ffi::Error call(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const uint8_t> program,
                ffi::Span<const int32_t> numbers) {
  Launch launch;
  std::memcpy(&launch, numbers.begin(), sizeof(launch));
  const std::string path(program.begin(), program.end());
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return ffi::Error::Internal(dlerror());
  auto kernel = reinterpret_cast<Kernel>(dlsym(library, "kernel"));
  std::vector<const void*> arguments;
  for (size_t k = 0; k < args.size(); k++)
    arguments.push_back(args.get<ffi::AnyBuffer>(k).value().untyped_data());
  for (size_t k = 0; k < rets.size(); k++)
    arguments.push_back((*rets.get<ffi::AnyBuffer>(k).value()).untyped_data());
  int32_t last[4] = {launch.steps, launch.batch, launch.reverse, 0};
  arguments.resize(arguments.size() + 2);
  std::memcpy(&arguments[arguments.size() - 2], last, sizeof(last));
  ffi::AnyBuffer scratch = *rets.get<ffi::AnyBuffer>(rets.size() - 1).value();
  if (launch.meeting == GRID) std::memset(scratch.untyped_data(), 0, 16 * launch.groups);
  for (int g = 0; g < launch.groups; g++)
    run_group(kernel, arguments.data(), g * launch.blocks, launch.blocks,
              launch.groups * launch.blocks, launch.threads, launch.shared);
  dlclose(library);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_cuda, call,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const uint8_t>>("program")
                                  .Attr<ffi::Span<const int32_t>>("numbers"));
