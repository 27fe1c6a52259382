# Fuzz targets: tests/fuzz/<name>_fuzz.cpp, and entry.cpp that hands it libFuzzer's inputs. What they test (core, io and
# models) is compiled once, by clang with its sanitizers, into a library of which a target takes what it needs.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  message(FATAL_ERROR "STUFFED_FUZZ needs clang (its libFuzzer): configure with -DCMAKE_CXX_COMPILER=clang++, as scripts/fuzz does")
endif()
add_library(fuzz_options INTERFACE)
target_link_libraries(fuzz_options INTERFACE stuffed_options LibTorch::cpu SentencePiece::sentencepiece TextLibraries::text
  ZLIB::ZLIB nlohmann_json::nlohmann_json Threads::Threads)
target_compile_options(fuzz_options INTERFACE -O1 -g1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
target_compile_definitions(fuzz_options INTERFACE STUFFED_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

file(GLOB_RECURSE FUZZED_SOURCES CONFIGURE_DEPENDS src/core/*.cpp src/io/*.cpp src/models/*.cpp)
file(GLOB FUZZ_TARGETS CONFIGURE_DEPENDS tests/fuzz/*_fuzz.cpp)
add_library(fuzzed STATIC EXCLUDE_FROM_ALL ${FUZZED_SOURCES} ${FUZZ_TARGETS})
target_link_libraries(fuzzed PUBLIC fuzz_options)
stuffed_units(fuzzed ${FUZZED_SOURCES} ${FUZZ_TARGETS})
target_compile_options(fuzzed PRIVATE -Xclang -fno-pch-timestamp)  # so that ccache may keep what uses it
target_precompile_headers(fuzzed PRIVATE include/stuffed/core/precompiled.h)

foreach(source ${FUZZ_TARGETS})
  get_filename_component(target ${source} NAME_WE)
  string(REGEX REPLACE "_fuzz$" "" name ${target})
  add_executable(${target} EXCLUDE_FROM_ALL tests/fuzz/entry.cpp)
  target_compile_definitions(${target} PRIVATE FUZZ_TARGET=fuzz_${name})
  # A checkpoint is recognised without running it, so what a forward pass calls (ops, recurrence, kernels: most of the
  # compile time) stays unresolved. A target that called it after all would jump to address 0, and be noticed.
  # The linker can do that only at fixed addresses.
  target_link_libraries(${target} PRIVATE fuzzed fuzz_options)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer,address,undefined -no-pie -Wl,--unresolved-symbols=ignore-all)
endforeach()
