// What a call is given: buffers and numbers.

// An array in bfloat16, by its bits, whose rows follow each other.
struct Narrow {
  uint16_t* data = nullptr;
  int64_t step = 0;

  uint16_t* at(int64_t t, int64_t b, int64_t row) const { return data + t * step + b * row; }
};

// An array whose rows belong to sequences, and to steps where it has them. Where it has the place of
// n steps alone, a power of two, they take turns: `turn` is n - 1. One that lies in bfloat16 gets
// places of its own in T, where a step works on it.
template <class T>
struct Array {
  T* data = nullptr;
  int64_t step = 0, row = 0, turn = -1;
  Narrow narrow;

  T* at(int64_t t, int64_t b) const { return data + (t & turn) * step + b * row; }
};

// The static parameters of a call, which calls.py gives by these names. batch: sequences. width: of
// u. carries, pre, extras, noise: how many arrays. weights: rows of the recurrent matrix, 0 if there is
// none. valid, restart: whether given. stacked: a bit for each carry of which there is an array of all
// steps, and in a run one for u. projection: 1 for w, 2 for w and b, 0 where wx is given and not x.
// block: rows that a program computes at a time. scratch: elements of its registers.
#define PARAMETERS(X)                                                                            \
  X(steps) X(batch) X(width) X(reverse) X(additive) X(carries) X(pre) X(extras) X(noise)         \
  X(weights) X(valid) X(restart) X(stacked) X(projection) X(block) X(scratch)

struct Call {
#define X(name) int32_t name;
  PARAMETERS(X)
#undef X
};

extern "C" const char* lstm_jax_parameters() {
#define X(name) #name " "
  return PARAMETERS(X);
#undef X
}

// C [R, M] = start + A B over K, so many times. Axis 1 is the last of an operand and 0 all others
// together; the two say which of them is summed over, and which operands lie in bfloat16.
struct ProductCall {
  int64_t members, R, K, M;
  bool a_first, b_first, start, a_narrow, b_narrow;
};

// What XLA hands over. The buffers are taken one after another, in the order of calls.py.
template <class T>
struct Arguments {
  ffi::ThreadPool pool;
  ffi::RemainingArgs args;
  ffi::RemainingRets rets;
  ffi::Span<const int32_t> call, code;
  ffi::Span<const T> constants;
  size_t arg = 0, ret = 0;

  static Array<T> array(const ffi::AnyBuffer& buffer, bool timed, bool shared) {
    ffi::Span<const int64_t> shape = buffer.dimensions();
    int64_t row = 1, batch = 1;
    size_t axis = timed;
    if (!shared) batch = shape[axis++];
    for (; axis < shape.size(); axis++) row *= shape[axis];
    int64_t step = timed ? batch * row : 0;
    if (buffer.element_type() == ffi::DataType::BF16)
      return {nullptr, step, row, -1, {static_cast<uint16_t*>(buffer.untyped_data()), step}};
    return {static_cast<T*>(buffer.untyped_data()), step, shared ? 0 : row};
  }
  Array<T> next(bool timed, bool shared = false) {
    return array(args.get<ffi::AnyBuffer>(arg++).value(), timed, shared);
  }
  Array<T> next_out(bool timed, bool shared = false) {
    ffi::AnyBuffer buffer = *rets.get<ffi::AnyBuffer>(ret++).value();
    in_large_pages(buffer.untyped_data(), buffer.size_bytes());
    return array(buffer, timed, shared);
  }
  std::vector<Array<T>> take(int n, bool timed, bool shared = false) {
    std::vector<Array<T>> all;
    for (int k = 0; k < n; k++) all.push_back(next(timed, shared));
    return all;
  }
  std::vector<Array<T>> take_out(int n, bool timed, bool shared = false) {
    std::vector<Array<T>> all;
    for (int k = 0; k < n; k++) all.push_back(next_out(timed, shared));
    return all;
  }
  size_t elements_out(size_t k) const {
    return (*rets.get<ffi::AnyBuffer>(k).value()).element_count();
  }
  const uint8_t* flags(bool there) {
    return there ? static_cast<const uint8_t*>(args.get<ffi::AnyBuffer>(arg++).value().untyped_data())
                 : nullptr;
  }
};
