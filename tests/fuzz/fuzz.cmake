# Fuzz targets: tests/fuzz/<name>_fuzz.cpp, and entry.cpp that hands it libFuzzer's inputs, linked to the objects that the
# tests run with under clang's sanitizers.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang OR NOT STUFFED_SANITIZE)
  message(FATAL_ERROR "STUFFED_FUZZ needs clang (its libFuzzer) and STUFFED_SANITIZE: configure as scripts/build_sanitized does")
endif()
file(GLOB FUZZ_TARGETS CONFIGURE_DEPENDS tests/fuzz/*_fuzz.cpp)
add_library(fuzz_targets STATIC EXCLUDE_FROM_ALL ${FUZZ_TARGETS})
target_link_libraries(fuzz_targets PUBLIC stuffed_core)
target_compile_definitions(fuzz_targets PRIVATE STUFFED_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
target_precompile_headers(fuzz_targets REUSE_FROM stuffed_core)

foreach(source ${FUZZ_TARGETS})
  get_filename_component(target ${source} NAME_WE)
  string(REGEX REPLACE "_fuzz$" "" name ${target})
  add_executable(${target} EXCLUDE_FROM_ALL tests/fuzz/entry.cpp)
  target_compile_definitions(${target} PRIVATE FUZZ_TARGET=fuzz_${name})
  target_link_libraries(${target} PRIVATE fuzz_targets)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
endforeach()
