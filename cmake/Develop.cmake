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

# With MPI: ctrain::mpi, for programs whose ranks are processes.
ctrain_find_mpi_packages(missing)
if(missing)
  message(STATUS "No MPI: the rest is built without it")
endif()

# With a toolkit: ctrain_develop_cuda, which adds the CUDA libraries.
if(CTRAIN_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES "80;90" CACHE STRING "GPU architectures")
    enable_language(CUDA)
    ctrain_find_cuda_packages(missing)
    if(missing)
      message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} is here, but not ${missing}. Install its libraries, or set CTRAIN_CUDA=OFF.")
    endif()
    add_library(ctrain_develop_cuda INTERFACE)
    target_link_libraries(ctrain_develop_cuda INTERFACE ctrain_develop ctrain::cuda)
  else()
    message(STATUS "No CUDA toolkit: the rest is built without it")
  endif()
endif()

# A program for a card, NAME_cuda, and the test that it starts, and says what it lacks, without one.
function(ctrain_add_cuda_program name source)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE ctrain_develop_cuda)
  find_program(CTRAIN_BASH bash REQUIRED)
  add_test(NAME starts_without_a_card.${name} COMMAND ${CTRAIN_BASH}
    ${PROJECT_SOURCE_DIR}/tests/gpu/starts_without_a_card.sh $<TARGET_FILE:${name}>)
endfunction()

# One executable per source, named as the source is, with `prefix` before it. NAME_cuda.cu needs a
# toolkit; without a card it names the target NAME_cpu, which then is NAME. NAME_mpi.cpp needs MPI,
# NAME_nccl_cuda.cu NCCL; its host's is NAME_mpi.
function(ctrain_add_executables prefix)
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  foreach(source IN LISTS sources)
    cmake_path(GET source STEM name)
    if(name MATCHES "_mpi$" AND NOT TARGET ctrain::mpi)
      continue()
    endif()
    add_executable(${prefix}${name} ${source})
    target_link_libraries(${prefix}${name} PRIVATE ctrain_develop)
    if(name MATCHES "_mpi$")
      target_link_libraries(${prefix}${name} PRIVATE ctrain::mpi)
    endif()
  endforeach()
  if(TARGET ctrain_develop_cuda)
    file(GLOB cuda_sources CONFIGURE_DEPENDS *_cuda.cu)
    foreach(source IN LISTS cuda_sources)
      cmake_path(GET source STEM name)
      if(name MATCHES "_nccl_cuda$" AND NOT TARGET ctrain::nccl)
        continue()
      endif()
      ctrain_add_cuda_program(${prefix}${name} ${source})
      string(REGEX REPLACE "_cuda$" "" card_name ${prefix}${name})
      string(REGEX REPLACE "_nccl$" "_mpi" host_name ${card_name})
      if(name MATCHES "_nccl_cuda$")
        target_link_libraries(${prefix}${name} PRIVATE ctrain::nccl)
      endif()
      if(TARGET ${host_name})
        add_custom_target(${card_name}_cpu DEPENDS ${host_name})
      endif()
    endforeach()
  endif()
endfunction()
