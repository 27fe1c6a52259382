# Finds LibTorch without its own package file, which demands a CUDA toolkit even for CPU use and adds
# -gencode flags for architectures that current nvcc no longer knows.
#
# Looks at STUFFED_LIBTORCH (a folder that holds include/ and lib/, such as site-packages/torch), then
# at the project's own virtual environment, then at `python3 -c 'import torch'`. Needs 2.6 or newer.
# Defines LibTorch::cpu and, where the build has it, LibTorch::cuda; LibTorch_VERSION; LibTorch_LIBRARY_DIR.

set(STUFFED_LIBTORCH "" CACHE PATH "LibTorch to build with: a folder that holds include/ and lib/")
if(NOT STUFFED_LIBTORCH)
  file(GLOB _candidates ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  if(NOT _candidates)
    execute_process(COMMAND python3 -c "import torch, os; print(os.path.dirname(torch.__file__))"
                    OUTPUT_VARIABLE _candidates OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  list(GET _candidates 0 _found)
  set(STUFFED_LIBTORCH "${_found}" CACHE PATH "" FORCE)
endif()

find_path(LibTorch_INCLUDE_DIR torch/types.h PATHS ${STUFFED_LIBTORCH}/include
          ${STUFFED_LIBTORCH}/include/torch/csrc/api/include NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS ${STUFFED_LIBTORCH}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS ${STUFFED_LIBTORCH}/lib NO_DEFAULT_PATH)
find_library(LibTorch_CUDA_LIBRARY torch_cuda PATHS ${STUFFED_LIBTORCH}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda PATHS ${STUFFED_LIBTORCH}/lib NO_DEFAULT_PATH)

if(LibTorch_INCLUDE_DIR)
  foreach(_header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS ${STUFFED_LIBTORCH}/include/${_header})
      file(STRINGS ${STUFFED_LIBTORCH}/include/${_header} _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX REPLACE "[^0-9;]" "" _numbers "${_lines}")
      string(REPLACE ";" "." LibTorch_VERSION "${_numbers}")
      break()
    endif()
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run scripts/setup, or give -DSTUFFED_LIBTORCH=/path/to/site-packages/torch")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  set(LibTorch_LIBRARY_DIR ${STUFFED_LIBTORCH}/lib)
  add_library(LibTorch::cpu INTERFACE IMPORTED)
  target_include_directories(LibTorch::cpu SYSTEM INTERFACE
    ${STUFFED_LIBTORCH}/include ${STUFFED_LIBTORCH}/include/torch/csrc/api/include)
  target_link_libraries(LibTorch::cpu INTERFACE ${LibTorch_CPU_LIBRARY} ${LibTorch_C10_LIBRARY})
  # LibTorch carries headers of fmt that shadow the system's, without the library to them. We compile that ourselves for
  # fmt 12 (LibTorch 2.11), which was tried; older ones stay header-only.
  file(STRINGS ${STUFFED_LIBTORCH}/include/fmt/base.h _fmt REGEX "define FMT_VERSION 12")
  if(_fmt)
    add_library(LibTorch_fmt STATIC EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/fmt_library.cpp)
    target_include_directories(LibTorch_fmt SYSTEM PRIVATE ${STUFFED_LIBTORCH}/include)
    target_link_libraries(LibTorch::cpu INTERFACE LibTorch_fmt)
  else()
    target_compile_definitions(LibTorch::cpu INTERFACE FMT_HEADER_ONLY=1)
  endif()
  # at::parallel_for is a loop on one thread where its caller is compiled without OpenMP. The runtime must be the one
  # LibTorch brings, and so is its pool of threads: two pools would wait for the same cores.
  file(GLOB LibTorch_GOMP_LIBRARY ${STUFFED_LIBTORCH}/lib/libgomp*.so*)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND LibTorch_GOMP_LIBRARY)
    target_compile_options(LibTorch::cpu INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
    target_link_libraries(LibTorch::cpu INTERFACE ${LibTorch_GOMP_LIBRARY})
  else()
    message(STATUS "stuffed: loops of its own will use one thread on the CPU: no GCC, or no libgomp in ${STUFFED_LIBTORCH}/lib")
  endif()
  if(LibTorch_CUDA_LIBRARY AND LibTorch_C10_CUDA_LIBRARY)
    file(GLOB _cudart ${STUFFED_LIBTORCH}/../nvidia/cu1*/lib/libcudart.so.1* ${STUFFED_LIBTORCH}/lib/libcudart*.so*)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    # torch_cuda registers its operators from static initialisers: nothing refers to it by name.
    target_link_libraries(LibTorch::cuda INTERFACE LibTorch::cpu
      -Wl,--no-as-needed ${LibTorch_CUDA_LIBRARY} ${LibTorch_C10_CUDA_LIBRARY} -Wl,--as-needed ${_cudart})
  endif()
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_CUDA_LIBRARY LibTorch_C10_CUDA_LIBRARY)
