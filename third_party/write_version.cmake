# Runs at every build: fills version.cpp.in with the commit and whether the tree differs from it, and
# touches the output only when that changed, so an unchanged tree rebuilds nothing.
execute_process(COMMAND git rev-parse HEAD WORKING_DIRECTORY ${SOURCE_DIR}
                OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _failed)
if(_failed)
  set(COMMIT "unknown")
endif()
execute_process(COMMAND git status --porcelain --untracked-files=no WORKING_DIRECTORY ${SOURCE_DIR}
                OUTPUT_VARIABLE _changes OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(_changes)
  set(DIRTY true)
else()
  set(DIRTY false)
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
