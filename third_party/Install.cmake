# cmake --install: the program, what shells and man read, the configs, and the licence. LibTorch stays where it is: the
# program finds it there.
include(GNUInstallDirs)
set_target_properties(stuffed PROPERTIES INSTALL_RPATH ${LibTorch_LIBRARY_DIR})
install(TARGETS stuffed)
if(CUDA_BUILD)  # beside the program, which looks for it there
  get_target_property(cuda_rpath stuffed_cuda BUILD_RPATH)
  set_target_properties(stuffed_cuda PROPERTIES INSTALL_RPATH "${LibTorch_LIBRARY_DIR}$<$<BOOL:${cuda_rpath}>:;${cuda_rpath}>")
  install(TARGETS stuffed_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(CODE "
  set(share \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}\")
  set(bash \"\${share}/bash-completion/completions/stuffed\")
  set(zsh \"\${share}/zsh/site-functions/_stuffed\")
  file(MAKE_DIRECTORY \"\${share}/bash-completion/completions\" \"\${share}/zsh/site-functions\")
  execute_process(COMMAND $<TARGET_FILE:stuffed> completion bash OUTPUT_FILE \"\${bash}\" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND $<TARGET_FILE:stuffed> completion zsh OUTPUT_FILE \"\${zsh}\" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND $<TARGET_FILE:stuffed> man-pages \"\${share}/man/man1\" COMMAND_ERROR_IS_FATAL ANY)
  message(STATUS \"Installed: completion and manual pages under \${share}\")
")
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/stuffed)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/stuffed)
install(DIRECTORY third_party/notices/ DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses)
