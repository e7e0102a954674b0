# What ctrain::cuda links. Used by the build and, installed beside ctrainConfig.cmake, by whoever
# asks for the component `cuda`. The project must have the language CUDA enabled, or compile no .cu.

# Makes the imported target ctrain::cuda, which links ctrain::host, and, where NCCL is found,
# ctrain::nccl, which links ctrain::cuda; sets `missing` to the names of
# what was not found.
function(ctrain_find_cuda_packages missing)
  set(absent "")
  if(NOT TARGET ctrain::cuda)
    find_package(CUDAToolkit QUIET)
    if(TARGET CUDA::cudart_static AND TARGET CUDA::cublasLt)
      add_library(ctrain::cuda INTERFACE IMPORTED GLOBAL)
      # cudart's archive is in every program, so that one starts, and says what it lacks, anywhere
      target_link_libraries(ctrain::cuda INTERFACE ctrain::host CUDA::cudart_static CUDA::cublasLt)
      # CMake 3.25 knows no C++20 of nvcc 13
      target_compile_options(ctrain::cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
      # Ranks with a card each; a program of one rank does without.
      find_library(CTRAIN_LIBRARY_nccl nccl HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib)
      find_path(CTRAIN_INCLUDE_nccl nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
      mark_as_advanced(CTRAIN_LIBRARY_nccl CTRAIN_INCLUDE_nccl)
      if(CTRAIN_LIBRARY_nccl AND CTRAIN_INCLUDE_nccl)
        add_library(ctrain::nccl INTERFACE IMPORTED GLOBAL)
        target_link_libraries(ctrain::nccl INTERFACE ctrain::cuda ${CTRAIN_LIBRARY_nccl})
        target_include_directories(ctrain::nccl INTERFACE ${CTRAIN_INCLUDE_nccl})
      endif()
    else()
      set(absent "the CUDA toolkit")
    endif()
  endif()
  set(${missing} "${absent}" PARENT_SCOPE)
endfunction()
