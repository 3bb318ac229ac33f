// Memory that a call works in. It is kept for the next call: the first touch of new memory, a page
// of 4 KiB at a time, costs more than packing a matrix into it.

class Kept {
  static constexpr size_t most = 64 << 20;
  static constexpr std::align_val_t line{64};
  std::mutex mutex;
  std::deque<std::pair<void*, size_t>> free;  // oldest first
  size_t bytes = 0;

 public:
  // Of the size asked for, or up to twice that.
  std::pair<void*, size_t> take(size_t size) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      for (auto it = free.begin(); it != free.end(); it++)
        if (auto found = *it; found.second >= size && found.second / 2 <= size) {
          free.erase(it), bytes -= found.second;
          return found;
        }
    }
    std::pair<void*, size_t> fresh = {::operator new(size, line), size};
    in_large_pages(fresh.first, size);
    return fresh;
  }
  void give_back(std::pair<void*, size_t> piece) {
    std::lock_guard<std::mutex> lock(mutex);
    free.push_back(piece), bytes += piece.second;
    for (; bytes > most; free.pop_front()) {
      ::operator delete(free.front().first, line);
      bytes -= free.front().second;
    }
  }
  // Never destroyed: at the end of the program a thread of the pool may still work.
  static Kept& of_all_calls() {
    static Kept* kept = new Kept;
    return *kept;
  }
};

// `count` numbers of any value.
template <class T>
class Scratch {
  std::pair<void*, size_t> piece;

 public:
  explicit Scratch(size_t count) : piece(Kept::of_all_calls().take(count * sizeof(T))) {}
  Scratch(Scratch&& other) : piece(std::exchange(other.piece, {nullptr, 0})) {}
  ~Scratch() {
    if (piece.first) Kept::of_all_calls().give_back(piece);
  }
  T* data() const { return static_cast<T*>(piece.first); }
};
