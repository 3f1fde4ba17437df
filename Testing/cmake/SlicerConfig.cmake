# Stands in for a Slicer build tree where there is none: find_package(Slicer) with -DSlicer_DIR=Testing/cmake gives the
# few commands and variables that this extension uses. It is stricter than Slicer: what Slicer would only find out while
# packaging, or never, is an error here.
set(Slicer_VERSION "5.12.4")
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/CheckMetadata.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CheckPackage.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-5.12/qt-scripted-modules")
