// Large pages for large results: an array of 32 MiB or more is new memory at every call, and its
// first touch in pages of 4 KiB costs more than what is computed.

inline void in_large_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  // A request; where it cannot be had nothing changes.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}
