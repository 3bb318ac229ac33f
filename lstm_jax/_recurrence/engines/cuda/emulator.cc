// XLA's call of a kernel that is compiled with emulated.h. Groups of blocks run one after another.

#include "emulator.h"

#include <dlfcn.h>

#include <cstring>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

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
  int32_t last[6] = {launch.steps, launch.batch, launch.reverse, launch.groups, 0, 0};
  arguments.resize(arguments.size() + 3);
  std::memcpy(&arguments[arguments.size() - 3], last, sizeof(last));
  ffi::AnyBuffer scratch = *rets.get<ffi::AnyBuffer>(rets.size() - 1).value();
  const int members = scratch.dimensions().size() > 1 ? int(scratch.dimensions()[0]) : 1;
  const size_t bytes = scratch.size_bytes() / members;
  for (int m = 0; m < members && launch.meeting == GRID; m++)
    std::memset(static_cast<char*>(scratch.untyped_data()) + m * bytes, 0, 16 * launch.groups);
  for (int g = 0; g < members * launch.groups; g++)
    run_group(kernel, arguments.data(), g * launch.blocks, launch.blocks, launch.threads,
              launch.shared);
  dlclose(library);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_cuda, call,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const uint8_t>>("program")
                                  .Attr<ffi::Span<const int32_t>>("numbers"));
