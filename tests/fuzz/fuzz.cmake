# Fuzz targets: tests/fuzz/<name>_fuzz.cpp and the sources of ours it needs, compiled by clang with libFuzzer and
# the sanitizers. A target lists its sources in <name>_fuzz.cpp.sources, one a line; nothing else is to be touched.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  message(FATAL_ERROR "STUFFED_FUZZ needs clang (its libFuzzer): configure with -DCMAKE_CXX_COMPILER=clang++, as scripts/fuzz does")
endif()
file(GLOB FUZZ_TARGETS CONFIGURE_DEPENDS tests/fuzz/*_fuzz.cpp)
foreach(source ${FUZZ_TARGETS})
  get_filename_component(target ${source} NAME_WE)
  file(STRINGS ${source}.sources needed)
  list(TRANSFORM needed PREPEND ${CMAKE_SOURCE_DIR}/)
  add_executable(${target} ${source} ${needed})
  target_link_libraries(${target} PRIVATE stuffed_options LibTorch::cpu SentencePiece::sentencepiece TextLibraries::text
    nlohmann_json::nlohmann_json Threads::Threads)
  target_compile_options(${target} PRIVATE -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer,address,undefined)
endforeach()
