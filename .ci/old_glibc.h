// Included before the kernel's source when a wheel is built: keeps the symbols of new systems out, so that
// the kernel loads on glibc 2.27 and GCC 8's libstdc++ as jaxlib does, though a newer GCC compiled it.

#include <cstdlib>
#include <new>
#include <sstream>

#define HIDDEN __attribute__((visibility("hidden")))

// glibc 2.32. 0 means that counts of references are always atomic.
extern "C" HIDDEN char __libc_single_threaded = 0;

// GCC 11: for an allocation of more than 2^63 bytes.
namespace std {
HIDDEN void __throw_bad_array_new_length() { std::abort(); }
}  // namespace std

// GCC 9: its default constructor.
template class std::basic_stringstream<char>;

// glibc 2.29 has versions of them that do not set errno.
#if defined(__x86_64__)
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
#endif
