// XLA's call of a kernel that is compiled with emulated.h. Groups of blocks run one after another.

#include "emulator.h"

#include <dlfcn.h>

#include <string>

#include "call.h"

ffi::Error call(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const uint8_t> program,
                ffi::Span<const int32_t> numbers) {
  Call of(args, rets, numbers);
  const Launch& launch = of.launch;
  const std::string path(program.begin(), program.end());
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return ffi::Error::Internal(dlerror());
  auto kernel = reinterpret_cast<Kernel>(dlsym(library, "kernel"));
  for (int m = 0; m < of.members && launch.meeting == GRID; m++)
    std::memset(of.counters(m), 0, of.bytes_of_counters());
  const void* argument = of.from_member(0);
  for (int g = 0; g < of.members * launch.groups; g++)
    run_group(kernel, argument, g * launch.blocks, launch.blocks, launch.threads, launch.shared);
  dlclose(library);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_cuda, call,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const uint8_t>>("program")
                                  .Attr<ffi::Span<const int32_t>>("numbers"));
