// Repeats the calls that record.py wrote, without Python and XLA, so that a sanitizer sees all that
// runs: each array is an allocation of its own, and the pool's threads are ours.
//
//   replay CALLS [once]

#include <dlfcn.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/c_api.h"

// ---- what a file holds ---------------------------------------------------------------------------
struct Values {
  XLA_FFI_DataType type;
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

struct Recorded {
  std::string function;
  std::vector<Values> args, rets, attributes;
  std::vector<std::string> names;  // of the attributes
};

struct Reader {
  std::ifstream file;

  int64_t number() {
    int64_t n = 0;
    file.read(reinterpret_cast<char*>(&n), sizeof(n));
    return n;
  }
  std::string name() {
    std::string letters(number(), ' ');
    file.read(letters.data(), letters.size());
    return letters;
  }
  Values values() {
    Values v{XLA_FFI_DataType(number())};
    v.shape.resize(number());
    for (int64_t& d : v.shape) d = number();
    int width = v.type == XLA_FFI_DataType_PRED || v.type == XLA_FFI_DataType_U8 ? 1
                : v.type == XLA_FFI_DataType_BF16                                     ? 2
                : v.type == XLA_FFI_DataType_S32 || v.type == XLA_FFI_DataType_F32 ? 4
                                                                                      : 8;
    v.bytes.resize(v.size() * width);
    file.read(v.bytes.data(), v.bytes.size());
    return v;
  }
  Recorded call() {
    Recorded call{name()};
    for (auto* all : {&call.args, &call.rets})
      for (int64_t n = number(); n > 0; n--) all->push_back(values());
    for (int64_t n = number(); n > 0; n--) {
      call.names.push_back(name());
      call.attributes.push_back(values());
    }
    return call;
  }
};

// ---- XLA's side of a call ------------------------------------------------------------------------
class Pool {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> tasks;
  bool over = false;
  std::vector<std::thread> threads;

  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex);
      changed.wait(lock, [&] { return over || !tasks.empty(); });
      if (tasks.empty()) return;
      auto task = std::move(tasks.front());
      tasks.pop_front();
      lock.unlock();
      task();
    }
  }

 public:
  explicit Pool(int n) {
    for (int k = 0; k < n; k++) threads.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      over = true;
    }
    changed.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
  void schedule(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      tasks.push_back(std::move(task));
    }
    changed.notify_one();
    // So that a thread has come before the caller has done all of the work by itself.
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  int size() const { return int(threads.size()); }
};

struct XLA_FFI_ExecutionContext {
  Pool* pool;
};

struct XLA_FFI_Error {
  std::string message;
};

XLA_FFI_Api make_api() {
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                     XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = [](XLA_FFI_Error_Create_Args* a) {
    return new XLA_FFI_Error{a->message};
  };
  api.XLA_FFI_Error_GetMessage = [](XLA_FFI_Error_GetMessage_Args* a) {
    a->message = a->error->message.c_str();
  };
  api.XLA_FFI_Error_Destroy = [](XLA_FFI_Error_Destroy_Args* a) { delete a->error; };
  api.XLA_FFI_ThreadPool_Schedule = [](XLA_FFI_ThreadPool_Schedule_Args* a) -> XLA_FFI_Error* {
    a->ctx->pool->schedule([task = a->task, data = a->data] { task(data); });
    return nullptr;
  };
  api.XLA_FFI_ThreadPool_NumThreads = [](XLA_FFI_ThreadPool_NumThreads_Args* a) -> XLA_FFI_Error* {
    *a->num_threads = a->ctx->pool->size();
    return nullptr;
  };
  api.XLA_FFI_Stream_Get = [](XLA_FFI_Stream_Get_Args* a) -> XLA_FFI_Error* {
    a->stream = reinterpret_cast<void*>(7);  // driver.cc's only one
    return nullptr;
  };
  return api;
}

// ---- one call ------------------------------------------------------------------------------------
[[noreturn]] void fail(const Recorded& call, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", call.function.c_str(), what.c_str());
  std::exit(1);
}

// Arrays as long as they say and not a byte longer, aligned as XLA's.
struct Buffers {
  std::vector<void*> data, pointers;
  std::vector<XLA_FFI_Buffer> buffers;
  std::vector<int> types;  // 1 is a buffer, the only type of an argument or a result

  explicit Buffers(const std::vector<Values>& values) {
    for (const Values& v : values) {
      void* p = nullptr;
      if (posix_memalign(&p, 64, v.bytes.size())) std::abort();
      data.push_back(p);
      buffers.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, v.type, p, int64_t(v.shape.size()),
                         const_cast<int64_t*>(v.shape.data())});
    }
    for (XLA_FFI_Buffer& buffer : buffers) pointers.push_back(&buffer);
    types.assign(values.size(), 1);
  }
  ~Buffers() {
    for (void* p : data) std::free(p);
  }
};

struct Attributes {
  std::vector<XLA_FFI_ByteSpan> spans;
  std::vector<XLA_FFI_Array> arrays;
  std::vector<XLA_FFI_Scalar> scalars;
  std::vector<XLA_FFI_ByteSpan*> names;
  std::vector<XLA_FFI_AttrType> types;
  std::vector<void*> pointers;

  explicit Attributes(const Recorded& call) {
    size_t n = call.names.size();
    spans.resize(n), arrays.resize(n), scalars.resize(n);
    for (size_t k = 0; k < n; k++) {
      const Values& v = call.attributes[k];
      void* data = const_cast<char*>(v.bytes.data());
      bool scalar = v.shape.empty();
      spans[k] = {call.names[k].data(), call.names[k].size()};
      arrays[k] = {v.type, size_t(v.size()), data};
      scalars[k] = {v.type, data};
      names.push_back(&spans[k]);
      types.push_back(scalar ? XLA_FFI_AttrType_SCALAR : XLA_FFI_AttrType_ARRAY);
      pointers.push_back(scalar ? static_cast<void*>(&scalars[k]) : &arrays[k]);
    }
  }
};

// A number of bfloat16.
struct Half {
  uint16_t bits;
  operator double() const {
    uint32_t whole = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &whole, sizeof(x));
    return x;
  }
};

// Other instructions round otherwise; an element that nobody wrote is far off.
template <class T>
bool agree(const Values& wanted, const void* seen, double tolerance) {
  std::vector<T> read(wanted.size());
  std::memcpy(read.data(), seen, wanted.bytes.size());
  std::vector<double> a(read.begin(), read.end());
  std::memcpy(read.data(), wanted.bytes.data(), wanted.bytes.size());
  std::vector<double> b(read.begin(), read.end());
  double largest = 1;
  for (double x : b) largest = std::max(largest, std::abs(x));
  for (size_t j = 0; j < a.size(); j++)
    if (!(std::abs(a[j] - b[j]) <= tolerance * largest)) return false;
  return true;
}

// narrow: the call has arrays in bfloat16, whose last digit is fed back.
bool agree(const Values& wanted, const void* seen, bool narrow) {
  if (wanted.type == XLA_FFI_DataType_U8) return true;  // room for a kernel alone
  if (wanted.type == XLA_FFI_DataType_BF16) return agree<Half>(wanted, seen, 3e-2);
  if (wanted.type == XLA_FFI_DataType_F32) return agree<float>(wanted, seen, narrow ? 3e-2 : 1e-4);
  return agree<double>(wanted, seen, 1e-10);
}

void replay(const Recorded& call, Pool& pool) {
  static const XLA_FFI_Api api = make_api();
  auto* handler = reinterpret_cast<XLA_FFI_Handler*>(dlsym(RTLD_DEFAULT, call.function.c_str()));
  if (!handler) fail(call, "the kernel has no such function");
  Buffers args(call.args), rets(call.rets);
  Attributes attributes(call);
  for (size_t k = 0; k < call.args.size(); k++)
    std::memcpy(args.data[k], call.args[k].bytes.data(), call.args[k].bytes.size());
  for (size_t k = 0; k < call.rets.size(); k++)
    std::memset(rets.data[k], 0xff, call.rets[k].bytes.size());  // NaN
  XLA_FFI_ExecutionContext context{&pool};
  XLA_FFI_CallFrame frame{XLA_FFI_CallFrame_STRUCT_SIZE, nullptr, &api, &context,
                          XLA_FFI_ExecutionStage_EXECUTE};
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, int64_t(args.data.size()),
                reinterpret_cast<XLA_FFI_ArgType*>(args.types.data()), args.pointers.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, int64_t(rets.data.size()),
                reinterpret_cast<XLA_FFI_RetType*>(rets.types.data()), rets.pointers.data()};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, int64_t(attributes.names.size()),
                 attributes.types.data(), attributes.names.data(), attributes.pointers.data()};
  if (XLA_FFI_Error* error = handler(&frame)) fail(call, error->message);
  for (size_t k = 0; k < call.args.size(); k++)
    if (std::memcmp(args.data[k], call.args[k].bytes.data(), call.args[k].bytes.size()))
      fail(call, "argument " + std::to_string(k) + " was written to");
  bool narrow = false;
  for (const auto* all : {&call.args, &call.rets})
    for (const Values& v : *all) narrow = narrow || v.type == XLA_FFI_DataType_BF16;
  for (size_t k = 0; k < call.rets.size(); k++) {
    if (!agree(call.rets[k], rets.data[k], narrow))
      fail(call, "result " + std::to_string(k) + " is another than the recorded one");
  }
}

int main(int count, char** argv) {
  std::vector<Recorded> calls;
  Reader reader{std::ifstream(argv[1], std::ios::binary)};
  while (reader.file.peek() != EOF) calls.push_back(reader.call());
  for (int threads : {1, 2, 4}) {
    Pool pool(threads);
    for (const Recorded& call : calls) replay(call, pool);
    if (count > 2) break;
  }
  if (count == 2) {  // XLA makes calls from the pool's own threads, several at a time.
    Pool pool(2);
    for (const Recorded& call : calls) pool.schedule([&] { replay(call, pool); });
  }
  std::printf("%zu calls agree\n", calls.size());
  return calls.empty();
}
