// XLA's call of a kernel on its stream: loads a cubin once, and launches it.
//
// libcuda is opened at the first call, so that this library is built and loaded where there is no
// GPU. What is needed of cuda.h is declared here (CUDA Driver API 12.0: clusters).

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "call.h"

namespace driver {
typedef int Result;  // CUresult, 0 for success
typedef void *Context, *Module, *Function, *Stream;
constexpr int COOPERATIVE = 2, CLUSTER_DIMENSION = 4;      // CUlaunchAttributeID
constexpr int SHARED_BYTES = 8, MORE_THAN_EIGHT_BLOCKS = 14;  // CUfunction_attribute

struct Attribute {  // CUlaunchAttribute
  int id;
  char pad[4];
  union {
    char whole[64];
    uint32_t dimensions[3];
    int number;
  } value;
};

struct Configuration {  // CUlaunchConfig
  uint32_t grid[3], block[3], shared;
  Stream stream;
  Attribute* attributes;
  uint32_t count;
};

// The functions of libcuda.
struct Api {
  Result (*name_of)(Result, const char**);
  Result (*current)(Context*);
  Result (*load)(Module*, const void*);
  Result (*function)(Function*, Module, const char*);
  Result (*set)(Function, int, int);
  Result (*clear)(uint64_t, uint8_t, size_t, Stream);
  Result (*start)(const Configuration*, Function, void**, void**);
  std::string missing;

  Api() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!library) missing = dlerror();
    else
      find(library, "cuGetErrorName", name_of), find(library, "cuCtxGetCurrent", current),
          find(library, "cuModuleLoadData", load), find(library, "cuModuleGetFunction", function),
          find(library, "cuFuncSetAttribute", set), find(library, "cuMemsetD8Async", clear),
          find(library, "cuLaunchKernelEx", start);
  }
  template <class F>
  void find(void* library, const char* name, F& to) {
    to = reinterpret_cast<F>(dlsym(library, name));
    if (!to) missing = std::string("libcuda has no ") + name;
  }
};

const Api& api() {
  static const Api api;
  return api;
}

ffi::Error error(const char* what, Result code) {
  const char* name = "an unknown error";
  api().name_of(code, &name);
  return ffi::Error::Internal(std::string("lstm_jax: ") + what + ": " + name);
}
}  // namespace driver

// What it was built from, and the version of XLA's interface that it speaks.
extern "C" const char* lstm_jax_sources() { return LSTM_JAX_SOURCES; }
#define TEXT(x) #x
#define VERSION(major, minor) TEXT(major) "." TEXT(minor)
extern "C" const char* lstm_jax_interface() {
  return VERSION(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}

#define TRY(call) \
  if (driver::Result code = cuda.call) return driver::error(#call, code)

// XLA's bytes lie anywhere.
std::vector<uint64_t> aligned(ffi::Span<const uint8_t> bytes) {
  std::vector<uint64_t> words(bytes.size() / 8 + 1);
  std::memcpy(words.data(), bytes.begin(), bytes.size());
  return words;
}

// The function of a cubin in the current context; modules stay loaded.
ffi::Error loaded(ffi::Span<const uint8_t> cubin, const Launch& launch, driver::Function* kernel) {
  static std::mutex mutex;
  static std::map<std::tuple<driver::Context, int32_t, int32_t>, driver::Function> all;
  const driver::Api& cuda = driver::api();
  driver::Context context;
  TRY(current(&context));
  std::lock_guard<std::mutex> lock(mutex);
  driver::Function& known = all[{context, launch.digest[0], launch.digest[1]}];
  if (!known) {
    const std::vector<uint64_t> image = aligned(cubin);
    driver::Module module;
    TRY(load(&module, image.data()));
    driver::Function found;
    TRY(function(&found, module, "kernel"));
    TRY(set(found, driver::SHARED_BYTES, launch.shared));
    if (launch.meeting == CLUSTER && launch.blocks > 8)
      TRY(set(found, driver::MORE_THAN_EIGHT_BLOCKS, 1));
    known = found;
  }
  *kernel = known;
  return ffi::Error::Success();
}

ffi::Error call(void* stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                ffi::Span<const uint8_t> program, ffi::Span<const int32_t> numbers) {
  const driver::Api& cuda = driver::api();
  if (!cuda.missing.empty()) return ffi::Error::Internal("lstm_jax: " + cuda.missing);
  Call of(args, rets, numbers);
  const Launch& launch = of.launch;
  driver::Function kernel;
  ffi::Error failed = loaded(program, launch, &kernel);
  if (failed.failure()) return failed;
  // Groups that wait for each other must all be there: the members of a grid come in turn.
  const int at_once = launch.meeting == GRID ? 1 : of.members;
  driver::Attribute attribute = {};
  if (launch.meeting == GRID) {
    attribute.id = driver::COOPERATIVE, attribute.value.number = 1;
  } else {
    attribute.id = driver::CLUSTER_DIMENSION;
    attribute.value.dimensions[0] = uint32_t(launch.blocks);
    attribute.value.dimensions[1] = attribute.value.dimensions[2] = 1;
  }
  driver::Configuration how = {{uint32_t(at_once * launch.groups * launch.blocks), 1, 1},
                               {uint32_t(launch.threads), 1, 1}, uint32_t(launch.shared), stream,
                               &attribute, uint32_t(launch.meeting != ALONE)};
  for (int member = 0; member < of.members; member += at_once) {
    if (launch.meeting == GRID)
      TRY(clear(reinterpret_cast<uint64_t>(of.counters(member)), 0, of.bytes_of_counters(), stream));
    void* parameters[] = {of.from_member(member)};
    TRY(start(&how, kernel, parameters, nullptr));
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_cuda, call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<void*>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const uint8_t>>("program")
                                  .Attr<ffi::Span<const int32_t>>("numbers"));
