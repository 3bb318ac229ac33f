// The calls: what XLA hands over, taken in the order of calls.py, and the threads.
//
// Included once for each instruction set, after recurrence.h.

// How many threads share each step's product: one, so that each takes rows of the batch and waits for
// nobody, but for few rows and a product that is worth the waiting. Two cores, medians:
// One sequence: a team gains a fifth to a third at H = 96 (LSTM, 18432 multiplications a part), and
// nothing at H = 64 (8192). Two sequences or three, H = 512, forwards: a quarter to two fifths, since a
// thread reads a part of W and not all of it; at H = 128, where W fits the second cache, it loses 6 %.
template <class T>
int team_size(const Call& call, int n) {
  constexpr int64_t least = 16384, cache = 512 << 10;
  int64_t numbers = int64_t(call.weights) * call.width, work = numbers * call.batch;
  bool few = call.batch < n || (call.batch < 2 * n && numbers * int64_t(sizeof(T)) > cache);
  if (!few || work < 2 * least) return 1;
  return int(std::min<int64_t>({n, panels_of(call.width, COLUMNS<T>), work / least}));
}

// The layer with its recurrent weights, the first buffer, as they are or transposed. Those that lie in
// bfloat16 are multiplied in pairs, `paired`, with what is rounded to it: h, or a cotangent.
template <class T>
Layer<T> prepared(Arguments<T>& in, bool transposed, bool paired) {
  Layer<T> layer{};
  std::memcpy(&layer.call, in.call.begin(), sizeof(Call));
  layer.code = reinterpret_cast<const Instruction*>(in.code.begin());
  layer.instructions = int(in.code.size() * sizeof(int32_t) / sizeof(Instruction));
  layer.constants = in.constants.begin();
  int K = layer.call.weights, M = layer.call.width, n = in.alone ? 1 : threads(in.pool);
  layer.team = team_size<T>(layer.call, n);
  if (!K) return layer;
  Array<T> given = in.next(false);
  int rows = layer.team > 1 ? layer.call.batch : (layer.call.batch + n - 1) / n;  // of a thread
  auto with = [&](auto* numbers, Form form) {
    using E = std::remove_pointer_t<decltype(numbers)>;
    if (transposed) layer.W.emplace(in.pool, Matrix<E>{numbers, 1, M}, M, K, form, rows);
    else layer.W.emplace(in.pool, Matrix<E>{numbers, M, 1}, K, M, form, rows);
  };
  if (!given.narrow.data) with(static_cast<const T*>(given.data), Form::numbers);
  else with(static_cast<const uint16_t*>(given.narrow.data),
            paired ? narrow_form<T>(rows) : Form::numbers);
  return layer;
}

// w [D, M] and b [M] of a projection, the next buffers where there is one.
template <class T>
void take_projection(Arguments<T>& in, Layer<T>& layer) {
  if (!layer.call.projection) return;
  ffi::AnyBuffer w = in.args.template get<ffi::AnyBuffer>(in.arg++).value();
  int K = int(w.dimensions()[in.lead]), M = int(w.dimensions()[in.lead + 1]);
  const int rows = std::max(layer.call.steps, layer.call.batch / threads(in.pool));
  auto of = [&](auto* numbers, Form form) {
    using E = std::remove_pointer_t<decltype(numbers)>;
    layer.W_x.emplace(in.pool, Matrix<E>{numbers, M, 1}, K, M, form, rows);
  };
  if (w.element_type() != ffi::DataType::BF16) of(in.template begin<const T>(w), Form::numbers);
  else of(in.template begin<const uint16_t>(w), narrow_form<T>(rows));  // x is in bfloat16 too.
  if (layer.call.projection == 2) layer.b = in.next(false).data;
}

// f(rows, thread) for slices of the batch, or for all of it on a team.
template <class T, class F>
void over_rows(Arguments<T>& in, const Layer<T>& layer, const F& f) {
  if (layer.team > 1) {
    Team team(in.pool, layer.team);
    return f(Rows<T>{layer, 0, layer.call.batch, team}, 0);
  }
  auto slice = [&](int thread, int first, int last) {
    Team alone(in.pool, 1);
    f(Rows<T>{layer, first, last, alone}, thread);
  };
  if (in.alone) slice(0, 0, layer.call.batch);
  else split(in.pool, layer.call.batch, slice);
}

template <class T>
void run_call(Arguments<T>& in) {
  Layer<T> layer = prepared<T>(in, false, true);
  const Call& call = layer.call;
  take_projection(in, layer);
  Arrays<T> start = in.take(call.carries, false);
  Arrays<T> origin = in.take(call.restart ? call.carries : 0, false);
  layer.pre = in.take(call.pre, true);
  layer.extras = in.take(call.extras, false, true);
  layer.noise = in.take(call.noise, true);
  layer.valid = in.flags(call.valid), layer.restart = in.flags(call.restart);
  Arrays<T> final = in.take_out(call.carries, false), carries(call.carries);
  for (int c = 0; c < call.carries; c++)
    if (call.stacked >> c & 1) carries[c] = in.next_out(true);
  Array<T> u{nullptr, 0, call.width};
  if (call.stacked >> call.carries & 1) u = in.next_out(true);
  over_rows(in, layer, [&](const Rows<T>& rows, int) {
    run<T>(rows, start, origin, carries, final, u);
  });
}

// Where the derivative is taken.
template <class T>
Primal<T> primal(Arguments<T>& in, Layer<T>& layer) {
  const Call& call = layer.call;
  Primal<T> at;
  at.start = in.take(call.carries, false);
  at.origin = in.take(call.restart ? call.carries : 0, false);
  at.carries = in.take(call.carries, true);
  layer.pre = in.take(call.pre, true);
  layer.extras = in.take(call.extras, false, true);
  layer.noise = in.take(call.noise, true);
  return at;
}

template <class T>
void linearized_call(Arguments<T>& in) {
  Layer<T> layer = prepared<T>(in, false, false);
  const Call& call = layer.call;
  Primal<T> at = primal(in, layer);
  Arrays<T> dextras = in.take(call.extras, false, true);
  Arrays<T> start = in.take(call.carries, false);
  Arrays<T> origin = in.take(call.restart ? call.carries : 0, false);
  Arrays<T> dpre = in.take(call.pre, true);
  layer.valid = in.flags(call.valid), layer.restart = in.flags(call.restart);
  Arrays<T> final = in.take_out(call.carries, false), carries = in.take_out(call.carries, true);
  over_rows(in, layer, [&](const Rows<T>& rows, int) {
    linearized<T>(rows, at, start, origin, dpre, dextras, carries, final);
  });
}

template <class T>
void transposed_call(Arguments<T>& in) {
  Layer<T> layer = prepared<T>(in, true, true);
  const Call& call = layer.call;
  Primal<T> at = primal(in, layer);
  Arrays<T> ct_final = in.take(call.carries, false), cts(call.carries);
  for (int c = 0; c < call.carries; c++)
    if (call.stacked >> c & 1) cts[c] = in.next(true);
  layer.valid = in.flags(call.valid), layer.restart = in.flags(call.restart);
  size_t first_ret = in.ret;
  Arrays<T> dextras = in.take_out(call.extras, false, true);
  Arrays<T> dcarry = in.take_out(call.carries, false);
  Arrays<T> dorigin = in.take_out(call.restart ? call.carries : 0, false);
  Arrays<T> dpre = in.take_out(call.pre, true);
  std::vector<size_t> sizes;
  for (int e = 0; e < call.extras; e++) sizes.push_back(in.elements_out(first_ret + e));
  std::vector<std::optional<Sums<T>>> sums(threads(in.pool));
  over_rows(in, layer, [&](const Rows<T>& rows, int thread) {
    sums[thread].emplace(sizes, int64_t(call.steps) * (rows.last - rows.first));
    transposed<T>(rows, at, ct_final, cts, dpre, *sums[thread], dcarry, dorigin);
    sums[thread]->settle();
  });
  for (int e = 0; e < call.extras; e++) {
    std::fill_n(dextras[e].data, sizes[e], T(0));
    for (auto& of_thread : sums)
      if (of_thread) add<T>(dextras[e].data, of_thread->totals[e].data(), sizes[e]);
  }
}
