/// \file  The backend that a program gets when it names none.   floor 5: backend
#pragma once

#ifdef __CUDACC__
#include <ctrain/backend/cuda/cuda.cuh>
#else
#include <ctrain/backend/cpu/cpu.hpp>
#endif

namespace ctrain {

/// In a .cu the device (nvcc 13 cannot read the vectorised kernels), elsewhere the host.
#ifdef __CUDACC__
using DefaultBackend = Cuda;
#else
using DefaultBackend = Cpu;
#endif

}  // namespace ctrain
