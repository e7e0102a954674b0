# What ctrain::mpi links. Used by the build and, installed beside ctrainConfig.cmake, by whoever
# asks for the component `mpi`.

# Makes the imported target ctrain::mpi, which links ctrain::host, for programs whose ranks are
# processes; sets `missing` to the names of what was not found.
function(ctrain_find_mpi_packages missing)
  set(absent "")
  if(NOT TARGET ctrain::mpi)
    set(MPI_CXX_SKIP_MPICXX TRUE)  # MPI's C++ classes are of the past, and a library of their own
    find_package(MPI QUIET COMPONENTS CXX)
    if(TARGET MPI::MPI_CXX)
      add_library(ctrain::mpi INTERFACE IMPORTED GLOBAL)
      target_link_libraries(ctrain::mpi INTERFACE ctrain::host MPI::MPI_CXX)
    else()
      set(absent "MPI")
    endif()
  endif()
  set(${missing} "${absent}" PARENT_SCOPE)
endfunction()
