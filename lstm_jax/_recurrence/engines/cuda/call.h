// A call of a kernel as XLA makes it, and the one argument of the kernel.

#include <cstdint>
#include <cstring>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// The numbers of a launch, as launch.py lists them.
struct Launch {
  int32_t steps, batch, reverse, groups, blocks, threads, shared, meeting;
  int32_t digest[2];  // of the program
};
enum { ALONE, CLUSTER, GRID };

class Call {
  std::vector<void*> arguments;  // `struct Arguments`: pointers, then six numbers
  size_t end;
  char* scratch;
  size_t scratch_of_member;

 public:
  Launch launch;
  int members;  // of a vmap: each has groups of its own

  Call(ffi::RemainingArgs& args, ffi::RemainingRets& rets, ffi::Span<const int32_t> numbers) {
    std::memcpy(&launch, numbers.begin(), sizeof(launch));
    for (size_t k = 0; k < args.size(); k++)
      arguments.push_back(args.get<ffi::AnyBuffer>(k).value().untyped_data());
    for (size_t k = 0; k < rets.size(); k++)
      arguments.push_back((*rets.get<ffi::AnyBuffer>(k).value()).untyped_data());
    end = arguments.size(), arguments.resize(end + 3);
    const ffi::AnyBuffer last = *rets.get<ffi::AnyBuffer>(rets.size() - 1).value();
    members = last.dimensions().size() > 1 ? int(last.dimensions()[0]) : 1;
    scratch = static_cast<char*>(last.untyped_data());
    scratch_of_member = last.size_bytes() / members;
  }
  // The argument of a launch that begins with a member.
  void* from_member(int member) {
    const int32_t numbers[6] = {launch.steps, launch.batch, launch.reverse, launch.groups, member};
    std::memcpy(&arguments[end], numbers, sizeof(numbers));
    return arguments.data();
  }
  // Where the groups of a member count, which begins as zeros.
  char* counters(int member) const { return scratch + member * scratch_of_member; }
  size_t bytes_of_counters() const { return 16 * size_t(launch.groups); }
};
