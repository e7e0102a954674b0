// The main function of every Catch2 executable, compiled once.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
// The OpenMP runtime and oneDNN are not instrumented: races that the thread sanitizer sees only
// inside them are not ours. LLVM's archer tells it where an OpenMP region forks, joins and waits.
extern "C" const char* __tsan_default_options() {
  return "ignore_noninstrumented_modules=1";
}
#endif
#endif
