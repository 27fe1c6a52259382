# Test jobs. Suites whose names end in Slow run apart from the quick ones; suites that start with Cuda
# need a GPU. LibTorch takes most of a second to load, so a job is a shard of the suites, not one test.
set(QUICK_FILTER "-*Slow.*:Cuda*")
if(STUFFED_SANITIZE)
  # A minute of numbers under the sanitizers, through code that other tests walk too.
  string(APPEND QUICK_FILTER ":*.GradientsCrossBlocks:*.GradientsMatchFiniteDifferences:*.OverfitsAString:*.Bf16LearnsToo")
endif()
foreach(shard 0 1)
  add_test(NAME quick_${shard} COMMAND stuffed_tests --gtest_filter=${QUICK_FILTER} --gtest_brief=1)
  set_tests_properties(quick_${shard} PROPERTIES LABELS quick
    ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${shard};OMP_NUM_THREADS=1")
endforeach()
add_test(NAME slow COMMAND stuffed_tests --gtest_filter=*Slow.*-Cuda* --gtest_brief=1)
set_tests_properties(slow PROPERTIES LABELS slow)
if(CUDA_BUILD)
  add_test(NAME gpu COMMAND stuffed_tests --gtest_filter=Cuda*)
  set_tests_properties(gpu PROPERTIES LABELS gpu)
endif()
add_test(NAME layers COMMAND python3 ${CMAKE_SOURCE_DIR}/scripts/check_layers.py)
set_tests_properties(layers PROPERTIES LABELS quick)
