include(CTest)
find_package(Python3 REQUIRED COMPONENTS Interpreter)

# Copies each listed file to the build tree under its own relative path, byte-compiles the Python files during the build,
# and installs both. As in Slicer, a file that is not listed stays behind.
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(PARSE_ARGV 0 arg "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule does not know: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_NAME)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule needs a NAME.")
  endif()
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${arg_NAME}.py")
    message(FATAL_ERROR "The module ${arg_NAME} has no ${arg_NAME}.py.")
  endif()

  set(folder "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  foreach(file IN LISTS arg_SCRIPTS arg_RESOURCES)
    if(IS_ABSOLUTE "${file}" OR NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      message(FATAL_ERROR "${arg_NAME} lists '${file}', which is not a file below ${CMAKE_CURRENT_SOURCE_DIR}.")
    endif()
    configure_file("${file}" "${folder}/${file}" COPYONLY)
    get_filename_component(parent "${file}" DIRECTORY)
    install(FILES "${folder}/${file}" DESTINATION "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/${parent}")
  endforeach()

  set(scripts ${arg_SCRIPTS})
  list(TRANSFORM scripts PREPEND "${folder}/")
  add_custom_target(Compile${arg_NAME}PythonFiles ALL
    COMMAND ${Python3_EXECUTABLE} -m compileall -q ${scripts}
    COMMENT "Byte-compiling ${arg_NAME}"
    VERBATIM
    )
endfunction()

# There is no application to run the test in: that its script is there and compiles is all that is checked.
function(slicer_add_python_unittest)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS")
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT}")
    message(FATAL_ERROR "slicer_add_python_unittest names '${arg_SCRIPT}', which is not in ${CMAKE_CURRENT_SOURCE_DIR}.")
  endif()
  get_filename_component(name "${arg_SCRIPT}" NAME_WE)
  add_test(
    NAME py_${arg_TESTNAME_PREFIX}${name}
    COMMAND ${Python3_EXECUTABLE} -m py_compile "${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT}"
    )
endfunction()
