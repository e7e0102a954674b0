/// \file  What CUDA and its libraries answer, as errors that name the call.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/core/units.hpp>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace ctrain::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw Error(std::string("CUDA: ") + call,
              std::string(cudaGetErrorName(status)) + " (" + cudaGetErrorString(status) + ")",
              status == cudaErrorMemoryAllocation
                  ? "Free memory on the card, or set a smaller batch in the policy"
                  : "Run again with CUDA_LAUNCH_BLOCKING=1 to see which call it was");
}

inline void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(std::string("cuBLASLt: ") + call, cublasLtGetStatusName(status),
              "Check that the CUDA libraries match the driver");
}

inline void check_scratch(bytes wanted, bytes available) {
  if (wanted <= available) return;
  throw Error("CUDA",
              "a call needs " + std::to_string(wanted) + " bytes of scratch, there are " +
                  std::to_string(available),
              "Set a smaller batch or feed_forward in the policy");
}

inline void check_grid(std::int64_t blocks) {
  if (blocks <= 0x7fffffff) return;
  throw Error("CUDA", "a kernel would need " + std::to_string(blocks) + " blocks",
              "Set a smaller batch in the policy");
}

}  // namespace ctrain::cuda
