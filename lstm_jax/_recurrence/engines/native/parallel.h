// Work for the threads of XLA's pool, without ever waiting for a thread that may not come.
//
// A pool's thread may itself be running a call that waits. So a caller offers its work, takes what
// nobody has taken, and waits only for what another thread has already begun.

inline void relax(int& spins) {
  if (++spins % 1024 == 0) return std::this_thread::yield();
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

inline int threads(ffi::ThreadPool& pool) { return std::max<int>(1, int(pool.num_threads())); }

// The core that the calling thread is on, or none.
inline int core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Linux may put a thread that wakes on the core of the one that woke it, which then stands still for
// up to 4 ms beside an idle core. Forbidding the core for a moment moves this thread to another.
inline void leave(int crowded) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (core() != crowded || sched_getaffinity(0, sizeof allowed, &allowed)) return;
  cpu_set_t others = allowed;
  CPU_CLR(crowded, &others);
  if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others))
    sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

// f(k) for k in [0, count), each once.
template <class F>
void each(ffi::ThreadPool& pool, int count, const F& f) {
  struct Work {
    std::atomic<int> next{0}, done{0};
  };
  auto work = std::make_shared<Work>();
  auto take = [work, count, &f] {  // f is gone when a late thread comes, and then so is the work.
    for (int k; (k = work->next.fetch_add(1)) < count;) {
      f(k);
      work->done.fetch_add(1, std::memory_order_release);
    }
  };
  auto help = [take, here = core()] { leave(here), take(); };
  for (int k = 1; k < std::min(count, threads(pool)); k++) pool.Schedule(decltype(help)(help));
  take();
  for (int spins = 0; work->done.load(std::memory_order_acquire) < count;) relax(spins);
}

// f(thread, first, last) for slices of [0, count).
template <class F>
void split(ffi::ThreadPool& pool, int64_t count, const F& f) {
  int n = int(std::min<int64_t>(threads(pool), count));
  auto bound = [=](int k) { return count / n * k + std::min<int64_t>(k, count % n); };
  each(pool, n, [&](int k) { f(k, bound(k), bound(k + 1)); });
}

// One piece of work after another, each cut in `parts`: for loops whose steps are too small to
// schedule. Threads that have come stay and spin for the next piece.
class Team {
  struct Shared {
    std::atomic<int64_t> ticket{INT32_MAX};  // the piece, and its next part in the lower half
    std::atomic<int> done{0};
    std::atomic<bool> over{false};
    std::function<void(int)> work;
  };
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
  int64_t piece = 0;

  // Takes a part of the present piece, if one is left.
  static bool take(Shared& s, int parts) {
    int64_t ticket = s.ticket.load(std::memory_order_acquire);
    int part = int(ticket & INT32_MAX);
    if (part >= parts || !s.ticket.compare_exchange_strong(ticket, ticket + 1)) return false;
    s.work(part);
    s.done.fetch_add(1, std::memory_order_release);
    return true;
  }

 public:
  const int parts;

  Team(ffi::ThreadPool& pool, int parts) : parts(parts) {
    for (int k = 1; k < parts; k++)
      pool.Schedule([shared = shared, parts, here = core()] {
        leave(here);
        for (int spins = 0; !shared->over.load(std::memory_order_acquire);)
          if (!take(*shared, parts)) relax(spins);
      });
  }
  ~Team() { shared->over.store(true, std::memory_order_release); }

  template <class F>
  void run(const F& f) {
    if (parts == 1) return f(0);
    Shared& s = *shared;
    s.work = [&f](int part) { f(part); };
    s.done.store(0, std::memory_order_relaxed);
    s.ticket.store(++piece << 32, std::memory_order_release);
    while (int(s.ticket.load(std::memory_order_relaxed) & INT32_MAX) < parts) take(s, parts);
    for (int spins = 0; s.done.load(std::memory_order_acquire) < parts;) relax(spins);
  }
};
