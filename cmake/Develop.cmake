# How examples, benches and tests of this repository are built. Users of the library see none of it.

find_program(CTRAIN_CCACHE ccache)
if(CTRAIN_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CTRAIN_CCACHE} CACHE STRING "Compiler launcher")
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CTRAIN_CCACHE} CACHE STRING "CUDA compiler launcher")
endif()

add_library(ctrain_develop INTERFACE)
target_link_libraries(ctrain_develop INTERFACE ctrain_host)
target_compile_options(ctrain_develop INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized>)  # g++ 12 sees it in its own AVX-512 headers
if(CTRAIN_WERROR)
  target_compile_options(ctrain_develop INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(CTRAIN_NATIVE)
  target_compile_options(ctrain_develop INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-march=native>)
endif()
if(CTRAIN_SANITIZE)
  set(flags -fsanitize=${CTRAIN_SANITIZE} -fno-sanitize-recover=all)
  target_compile_options(ctrain_develop INTERFACE ${flags} -O1 -g1 -fno-omit-frame-pointer -UNDEBUG)
  target_link_options(ctrain_develop INTERFACE ${flags})
endif()

# With a toolkit: ctrain_develop_cuda, which adds the CUDA libraries.
if(CTRAIN_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES "80;90" CACHE STRING "GPU architectures")
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    add_library(ctrain_develop_cuda INTERFACE)
    target_link_libraries(ctrain_develop_cuda INTERFACE ctrain_develop CUDA::cudart CUDA::cublasLt)
    # CMake 3.25 knows no C++20 of this nvcc
    target_compile_options(ctrain_develop_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  else()
    message(STATUS "No CUDA toolkit: the rest is built without it")
  endif()
endif()

# One executable per source, named as the source is, with `prefix` before it; .cu needs a toolkit.
function(ctrain_add_executables prefix)
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  if(TARGET ctrain_develop_cuda)
    file(GLOB cuda_sources CONFIGURE_DEPENDS *.cu)
  endif()
  foreach(source IN LISTS sources cuda_sources)
    cmake_path(GET source STEM name)
    add_executable(${prefix}${name} ${source})
    if(source MATCHES "\\.cu$")
      target_link_libraries(${prefix}${name} PRIVATE ctrain_develop_cuda)
    else()
      target_link_libraries(${prefix}${name} PRIVATE ctrain_develop)
    endif()
  endforeach()
endfunction()
