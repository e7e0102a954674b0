/// \file  The library's only macros: host-device functions and forced inlining.   floor 0: core
#pragma once

#if defined(__CUDACC__)
#define CTRAIN_HOST_DEVICE __host__ __device__
#else
#define CTRAIN_HOST_DEVICE
#endif

#if defined(__GNUC__) || defined(__clang__)
#define CTRAIN_INLINE inline __attribute__((always_inline))
#else
#define CTRAIN_INLINE inline
#endif
