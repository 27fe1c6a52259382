# What the tokenizers and hashes stand on: PCRE2 (the split pattern), utf8proc (NFC), libcrypto (SHA-256).
# Defines TextLibraries::text.
foreach(_lib pcre2 utf8proc crypto)
  set(_header_pcre2 pcre2.h)
  set(_header_utf8proc utf8proc.h)
  set(_header_crypto openssl/evp.h)
  set(_name_pcre2 pcre2-8)
  set(_name_utf8proc utf8proc)
  set(_name_crypto crypto)
  find_path(${_lib}_INCLUDE_DIR ${_header_${_lib}})
  find_library(${_lib}_LIBRARY ${_name_${_lib}})
  mark_as_advanced(${_lib}_INCLUDE_DIR ${_lib}_LIBRARY)
endforeach()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TextLibraries
  REQUIRED_VARS pcre2_LIBRARY pcre2_INCLUDE_DIR utf8proc_LIBRARY utf8proc_INCLUDE_DIR crypto_LIBRARY crypto_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "apt-get install libpcre2-dev libutf8proc-dev libssl-dev, or run scripts/setup")
if(TextLibraries_FOUND AND NOT TARGET TextLibraries::text)
  add_library(TextLibraries::text INTERFACE IMPORTED)
  target_include_directories(TextLibraries::text SYSTEM INTERFACE
    ${pcre2_INCLUDE_DIR} ${utf8proc_INCLUDE_DIR} ${crypto_INCLUDE_DIR})
  target_link_libraries(TextLibraries::text INTERFACE ${pcre2_LIBRARY} ${utf8proc_LIBRARY} ${crypto_LIBRARY})
endif()
