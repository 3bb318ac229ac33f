// What the machine can do, and how much of it is used.
//
// LSTM_JAX_INSTRUCTIONS names less than the machine has: amx, avx512bf16, avx512, avx2 or portable.

// Of the compiler: whether it knows AVX512-BF16, and lets any function name AMX's instructions.
#if defined(__x86_64__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#define PAIRS 1
#else
#define PAIRS 0
#endif
#if PAIRS && defined(__linux__) && !defined(__clang__)
#define TILES 1
#else
#define TILES 0
#endif

enum class Level { portable, avx2, avx512, avx512bf16, amx };
constexpr const char* LEVELS[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};

// The widest vectors.
inline Level vectors_here() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Level::portable;
  for (bool has : {__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512vl"),
                   __builtin_cpu_supports("avx512bw"), __builtin_cpu_supports("avx512dq")})
    if (!has) return Level::avx2;
  return Level::avx512;
#endif
  return Level::portable;
}

// Whether there are tiles for bfloat16, and the system lets this process have them: their 8 KiB are
// state that it saves for a thread only if asked to.
inline bool tiles_here() {
#if LSTM_JAX_EMULATED_TILES
  return true;
#elif TILES
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
  constexpr long allow = 0x1023, data = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return !syscall(SYS_arch_prctl, allow, data);
#endif
  return false;
}

struct Machine {
  Level vectors = vectors_here(), level = vectors;

  Machine() {
    const char* asked = std::getenv("LSTM_JAX_INSTRUCTIONS");
    Level most = Level::amx;
    for (int k = 0; asked && k < 5; k++)
      if (!std::strcmp(asked, LEVELS[k])) most = Level(k);
#if PAIRS
    if (vectors == Level::avx512 && __builtin_cpu_supports("avx512bf16")) level = Level::avx512bf16;
#endif
    level = std::min(level, most);
    if (most == Level::amx && tiles_here()) level = Level::amx;
    vectors = std::min(vectors, level);
  }
};
inline const Machine here;

inline const bool pairs_here = here.level >= Level::avx512bf16 && here.vectors == Level::avx512;
inline const bool tiles_used = here.level == Level::amx;

extern "C" const char* lstm_jax_instructions() { return LEVELS[int(here.level)]; }
