// Of CUDA's driver (libcuda.so.1) what launcher.cc calls, with kernels that run on the CPU.
//
// It is as strict as a device: shared memory must be asked for before a launch, and so must clusters
// of more than eight blocks; the blocks of a cooperative launch run at the same time, those of others
// only within their cluster.

#include "../../lstm_jax/_recurrence/engines/cuda/emulator.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>

namespace {
constexpr int INVALID = 1;  // CUDA_ERROR_INVALID_VALUE
constexpr uint32_t WITHOUT_ASKING = 48 << 10;

// CUlaunchAttribute and CUlaunchConfig of cuda.h.
struct Attribute {
  int id;
  char pad[4];
  union {
    char whole[64];
    uint32_t dimensions[3];
  } value;
};
struct Configuration {
  uint32_t grid[3], block[3], shared;
  void* stream;
  Attribute* attributes;
  uint32_t count;
};

struct Loaded {
  Kernel kernel;
  uint32_t shared = WITHOUT_ASKING;
  bool large = false;
};
}  // namespace

#define DRIVER extern "C" __attribute__((visibility("default"))) int

DRIVER cuGetErrorName(int code, const char** name) {
  *name = code == INVALID ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR";
  return 0;
}
DRIVER cuCtxGetCurrent(void** context) {
  static int one;
  *context = &one;
  return 0;
}
// An image is the path of a library, up to ".so": what is behind it is not ours.
DRIVER cuModuleLoadData(void** module, const void* image) {
  const char* letters = static_cast<const char*>(image);
  std::string path;
  while (path.size() < 3 || path.compare(path.size() - 3, 3, ".so")) path += *letters++;
  *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!*module) std::fprintf(stderr, "%s\n", dlerror());
  return *module ? 0 : INVALID;
}
DRIVER cuModuleGetFunction(void** function, void* module, const char* name) {
  auto kernel = reinterpret_cast<Kernel>(dlsym(module, name));
  *function = new Loaded{kernel};
  return kernel ? 0 : INVALID;
}
DRIVER cuFuncSetAttribute(void* function, int attribute, int value) {
  Loaded* of = static_cast<Loaded*>(function);
  if (attribute == 8) of->shared = uint32_t(value);
  else if (attribute == 14) of->large = value;
  else return INVALID;
  return 0;
}
DRIVER cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, void*) {
  std::memset(reinterpret_cast<void*>(to), value, n);
  return 0;
}
DRIVER cuLaunchKernelEx(const Configuration* how, void* function, void** parameters, void**) {
  const Loaded* of = static_cast<const Loaded*>(function);
  const int all = int(how->grid[0]);
  int together = 1;
  for (uint32_t k = 0; k < how->count; k++)
    if (how->attributes[k].id == 2) together = all;
    else if (how->attributes[k].id == 4) together = int(how->attributes[k].value.dimensions[0]);
    else return INVALID;
  const bool flat = how->grid[1] == 1 && how->grid[2] == 1 && how->block[1] == 1 && how->block[2] == 1;
  const bool large = how->count && how->attributes[0].id == 4 && together > 8;
  if (!flat || how->shared > of->shared || all % together || (large && !of->large)) return INVALID;
  if (how->stream != reinterpret_cast<void*>(7)) return INVALID;  // replay.cc's
  for (int first = 0; first < all; first += together)
    run_group(of->kernel, parameters[0], first, together, int(how->block[0]), how->shared);
  return 0;
}
