# Compiles ONNX models to static libraries in a CMake build.
#
#   include(path/to/Quernel.cmake)
#   quernel_add_model(digits MODEL digits.onnx CALIBRATE samples.npz)
#   target_link_libraries(app PRIVATE digits)        # library and include directory of digits.h
#
#   quernel_add_model(<target> MODEL <file.onnx>
#                     [CALIBRATE <file>...]          samples (.npz, .npy, a folder of pictures), ranges.json, batch-norm, or random
#                     [BITS <width|file.toml>]       8 by default; float needs no CALIBRATE
#                     [NAME <prefix>]                prefix of every symbol and name of the header; <target> by default
#                     [DIM <name=extent>...]         extents of symbolic dimensions
#                     [TARGET <triple>]              what the toolchain builds for by default; `quernel targets` lists them
#                     [TARGET_CPU <name>]
#                     [OPTIONS <option>...])         further options of `quernel compile`
#
# The compiler is QUERNEL_EXECUTABLE, or `quernel` on the PATH. Models are compiled again when a file they come from
# changes. Target properties of <target>: QUERNEL_TRIPLE, QUERNEL_LIBRARY, QUERNEL_HEADER.

cmake_minimum_required(VERSION 3.20)

# The triple of Quernel for what the toolchain of this project builds.
function(quernel_target_triple result)
  set(system "${CMAKE_SYSTEM_NAME}")
  set(processor "${CMAKE_SYSTEM_PROCESSOR}")
  # Compilers that are told their target know best.
  set(told "${CMAKE_CXX_COMPILER_TARGET}")
  if(NOT told)
    set(told "${CMAKE_C_COMPILER_TARGET}")
  endif()
  if(told MATCHES "^([^-]+)-")
    set(processor "${CMAKE_MATCH_1}")
    if(told MATCHES "android")
      set(system Android)
    elseif(told MATCHES "linux")
      set(system Linux)
    elseif(told MATCHES "windows|mingw")
      set(system Windows)
    elseif(told MATCHES "-none|-elf|-eabi")
      set(system Generic)
    endif()
  elseif(APPLE AND CMAKE_OSX_ARCHITECTURES)
    list(LENGTH CMAKE_OSX_ARCHITECTURES count)
    if(count GREATER 1)
      message(FATAL_ERROR "quernel: one architecture per build, not ${CMAKE_OSX_ARCHITECTURES}; build twice and join with lipo, or give TARGET")
    endif()
    set(processor "${CMAKE_OSX_ARCHITECTURES}")
  elseif(MSVC AND CMAKE_CXX_COMPILER_ARCHITECTURE_ID)
    set(processor "${CMAKE_CXX_COMPILER_ARCHITECTURE_ID}")
  elseif(MSVC AND CMAKE_C_COMPILER_ARCHITECTURE_ID)
    set(processor "${CMAKE_C_COMPILER_ARCHITECTURE_ID}")
  endif()

  string(TOLOWER "${processor}" processor)
  if(processor MATCHES "^(x86_64|amd64|x64)$")
    set(processor x86_64)
  elseif(processor MATCHES "^(aarch64|arm64|arm64e|arm64-v8a|armv8-a)$")
    set(processor aarch64)
  elseif(processor MATCHES "^riscv64")
    set(processor riscv64gc)
  elseif(NOT processor STREQUAL "s390x")
    message(FATAL_ERROR "quernel: no code for the processor \"${processor}\"; give TARGET, see `quernel targets`")
  endif()

  if(system STREQUAL "Linux")
    if("${told}${CMAKE_C_COMPILER_TARGET}${CMAKE_LIBRARY_ARCHITECTURE}" MATCHES "musl")
      set(triple "${processor}-unknown-linux-musl")
    else()
      set(triple "${processor}-unknown-linux-gnu")
    endif()
  elseif(system STREQUAL "Android")
    set(triple "${processor}-linux-android")
  elseif(system STREQUAL "Darwin")
    set(triple "${processor}-apple-darwin")
  elseif(system STREQUAL "iOS")
    set(triple "${processor}-apple-ios")
  elseif(system STREQUAL "Windows")
    if(MSVC)
      set(triple "${processor}-pc-windows-msvc")
    else()
      set(triple "${processor}-pc-windows-gnu")
    endif()
  elseif(system MATCHES "BSD$")
    set(triple "${processor}-unknown-freebsd")
  elseif(system STREQUAL "Generic")
    set(triple "${processor}-unknown-none")
  else()
    message(FATAL_ERROR "quernel: no code for the system \"${system}\"; give TARGET, see `quernel targets`")
  endif()
  set(${result} "${triple}" PARENT_SCOPE)
endfunction()

function(quernel_add_model target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "MODEL;BITS;NAME;TARGET;TARGET_CPU" "CALIBRATE;DIM;OPTIONS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "quernel_add_model(${target}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "quernel_add_model(${target}): no value for ${arg_KEYWORDS_MISSING_VALUES}")
  endif()
  if(NOT arg_MODEL)
    message(FATAL_ERROR "quernel_add_model(${target}): MODEL is missing")
  endif()
  find_program(QUERNEL_EXECUTABLE quernel DOC "The Quernel compiler")
  if(NOT QUERNEL_EXECUTABLE)
    message(FATAL_ERROR "quernel_add_model(${target}): `quernel` is not on the PATH; set QUERNEL_EXECUTABLE")
  endif()

  if(NOT arg_NAME)
    string(MAKE_C_IDENTIFIER "${target}" arg_NAME)
  endif()
  if(NOT arg_TARGET)
    quernel_target_triple(arg_TARGET)
  endif()
  cmake_path(ABSOLUTE_PATH arg_MODEL NORMALIZE)
  set(options --target "${arg_TARGET}" --name "${arg_NAME}")
  set(inputs "${arg_MODEL}")
  foreach(source IN LISTS arg_CALIBRATE)
    if(NOT source MATCHES "^(random|batch-norm)$")
      cmake_path(ABSOLUTE_PATH source NORMALIZE)
      list(APPEND inputs "${source}")
    endif()
    list(APPEND options --calibrate "${source}")
  endforeach()
  if(arg_BITS MATCHES "\\.toml$")
    cmake_path(ABSOLUTE_PATH arg_BITS NORMALIZE)
    list(APPEND inputs "${arg_BITS}")
  endif()
  if(arg_BITS)
    list(APPEND options --bits "${arg_BITS}")
  endif()
  if(arg_TARGET_CPU)
    list(APPEND options --target-cpu "${arg_TARGET_CPU}")
  endif()
  foreach(dim IN LISTS arg_DIM)
    list(APPEND options --dim "${dim}")
  endforeach()

  # A folder per target: the same model may be there twice, for two machines.
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/quernel/${target}")
  file(MAKE_DIRECTORY "${folder}")
  set(suffix a)
  if(arg_TARGET MATCHES "msvc")
    set(suffix lib)
  endif()
  set(library "${folder}/${arg_NAME}.${suffix}")
  set(header "${folder}/${arg_NAME}.h")

  # Ninja and make learn from the compiler which files it read: external weights, pictures.
  set(depfile "")
  if(CMAKE_GENERATOR MATCHES "Ninja|Makefiles")
    set(depfile DEPFILE "${library}.d")
    list(APPEND options --depfile "${library}.d")
  endif()
  cmake_path(RELATIVE_PATH arg_MODEL BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" OUTPUT_VARIABLE shown)
  add_custom_command(
    OUTPUT "${library}" "${header}" "${folder}/${arg_NAME}.json"
    COMMAND "${QUERNEL_EXECUTABLE}" compile "${arg_MODEL}" ${options} ${arg_OPTIONS} -o "${library}"
    DEPENDS ${inputs} "${QUERNEL_EXECUTABLE}"
    ${depfile}
    COMMENT "Compiling ${shown} for ${arg_TARGET}"
    VERBATIM
  )
  add_custom_target(${target}_model DEPENDS "${library}" "${header}")

  add_library(${target} STATIC IMPORTED GLOBAL)
  add_dependencies(${target} ${target}_model)
  set_target_properties(
    ${target}
    PROPERTIES
      IMPORTED_LOCATION "${library}"
      INTERFACE_INCLUDE_DIRECTORIES "${folder}"
      QUERNEL_TRIPLE "${arg_TARGET}"
      QUERNEL_LIBRARY "${library}"
      QUERNEL_HEADER "${header}"
  )
endfunction()
