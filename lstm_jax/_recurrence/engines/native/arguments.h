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
// block: rows that a program computes at a time. scratch: elements of its registers. axes: of the first
// result; if it comes with one more, that is the axis of the members of a vmap, first of every buffer.
#define PARAMETERS(X)                                                                            \
  X(steps) X(batch) X(width) X(reverse) X(additive) X(carries) X(pre) X(extras) X(noise)         \
  X(weights) X(valid) X(restart) X(stacked) X(projection) X(block) X(scratch) X(axes)

struct Call {
#define X(name) int32_t name;
  PARAMETERS(X)
#undef X
};

extern "C" const char* lstm_jax_parameters() { return PARAMETERS(NAME); }

// C [R, M] = start + A B over K, so many times. Axis 1 is the last of an operand and 0 all others
// together; the two say which of them is summed over, and which operands lie in bfloat16.
struct ProductCall {
  int64_t members, R, K, M;
  bool a_first, b_first, start, a_narrow, b_narrow;
};

// What XLA hands over. The buffers are taken one after another, in the order of calls.py, and of each
// the part of one member; a buffer that all members share has an axis of 1.
template <class T>
struct Arguments {
  ffi::ThreadPool pool;
  ffi::RemainingArgs args;
  ffi::RemainingRets rets;
  ffi::Span<const int32_t> call, code;
  ffi::Span<const T> constants;
  size_t arg = 0, ret = 0, lead = 0;  // lead: 1 if there is an axis of members
  int64_t member = 0;
  bool alone = false;  // Other threads have members of their own.

  // Sets `lead` and returns the number of members.
  int64_t members() {
    ffi::Span<const int64_t> shape = (*rets.get<ffi::AnyBuffer>(0).value()).dimensions();
    Call numbers;
    std::memcpy(&numbers, call.begin(), sizeof(Call));
    lead = shape.size() > size_t(numbers.axes);
    return lead ? shape[0] : 1;
  }
  // Element of a buffer at which the member's part begins.
  template <class E>
  E* begin(const ffi::AnyBuffer& buffer) const {
    int64_t count = lead ? buffer.dimensions()[0] : 1;
    E* data = static_cast<E*>(buffer.untyped_data());
    return count > 1 ? data + member * (int64_t(buffer.element_count()) / count) : data;
  }
  Array<T> array(const ffi::AnyBuffer& buffer, bool timed, bool shared) const {
    ffi::Span<const int64_t> shape = buffer.dimensions();
    int64_t row = 1, batch = 1;
    size_t axis = lead + timed;
    if (!shared) batch = shape[axis++];
    for (; axis < shape.size(); axis++) row *= shape[axis];
    int64_t step = timed ? batch * row : 0;
    if (buffer.element_type() == ffi::DataType::BF16)
      return {nullptr, step, row, -1, {begin<uint16_t>(buffer), step}};
    return {begin<T>(buffer), step, shared ? 0 : row};
  }
  Array<T> next(bool timed, bool shared = false) {
    return array(args.get<ffi::AnyBuffer>(arg++).value(), timed, shared);
  }
  Array<T> next_out(bool timed, bool shared = false) {
    ffi::AnyBuffer buffer = *rets.get<ffi::AnyBuffer>(ret++).value();
    if (!member) in_large_pages(buffer.untyped_data(), buffer.size_bytes());
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
    ffi::AnyBuffer buffer = *rets.get<ffi::AnyBuffer>(k).value();
    return buffer.element_count() / (lead ? std::max<int64_t>(1, buffer.dimensions()[0]) : 1);
  }
  const uint8_t* flags(bool there) {
    return there ? begin<uint8_t>(args.get<ffi::AnyBuffer>(arg++).value()) : nullptr;
  }
};
