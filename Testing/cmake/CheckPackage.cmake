# Slicer refuses to package an extension without these two.
foreach(file IN ITEMS README.md LICENSE.txt)
  if(NOT EXISTS "${CMAKE_SOURCE_DIR}/${file}")
    message(FATAL_ERROR "${file} is missing from the top folder: Slicer cannot package the extension without it.")
  endif()
endforeach()
