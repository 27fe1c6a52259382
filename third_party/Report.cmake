# What the pages of `stuffed report` are made of: report.css, report.js, and BokehJS from the Python package `bokeh`
# (requirements.txt; BSD-3-Clause, notices/bokeh.txt). Looks at STUFFED_BOKEH, a folder that holds server/static/js, then at
# the project's own virtual environment. Without it all else works, and `report` says what is missing.
#
# Adds the source that embeds them, ${STUFFED_ASSETS}.
set(STUFFED_BOKEH "" CACHE PATH "The Python package bokeh, whose BokehJS draws reports; default: that of .venv")
set(_bokeh "${STUFFED_BOKEH}")
if(NOT _bokeh)
  file(GLOB _bokeh ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/bokeh)
endif()

set(STUFFED_REPORT_STYLE ${CMAKE_SOURCE_DIR}/src/report/assets/report.css)
set(STUFFED_REPORT_SCRIPT ${CMAKE_SOURCE_DIR}/src/report/assets/report.js)
set(STUFFED_BOKEH_JS ${_bokeh}/server/static/js/bokeh.min.js)
set(STUFFED_BOKEH_API_JS ${_bokeh}/server/static/js/bokeh-api.min.js)
set(STUFFED_BOKEH_LICENCE ${CMAKE_SOURCE_DIR}/third_party/notices/bokeh.txt)
if(NOT EXISTS ${STUFFED_BOKEH_JS} OR NOT EXISTS ${STUFFED_BOKEH_API_JS})
  message(STATUS "stuffed: no BokehJS was found: 'stuffed report' will say so")
  file(TOUCH ${CMAKE_BINARY_DIR}/no-bokeh.js)
  set(STUFFED_BOKEH_JS ${CMAKE_BINARY_DIR}/no-bokeh.js)
  set(STUFFED_BOKEH_API_JS ${STUFFED_BOKEH_JS})
endif()

set(STUFFED_ASSETS ${CMAKE_BINARY_DIR}/assets.cpp)
configure_file(${CMAKE_SOURCE_DIR}/src/report/assets.cpp.in ${STUFFED_ASSETS} @ONLY)
set_source_files_properties(${STUFFED_ASSETS} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON OBJECT_DEPENDS
  "${STUFFED_REPORT_STYLE};${STUFFED_REPORT_SCRIPT};${STUFFED_BOKEH_JS};${STUFFED_BOKEH_API_JS};${STUFFED_BOKEH_LICENCE}")
