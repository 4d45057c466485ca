# Stands for Slicer's own SlicerConfig.cmake, so that plain CMake can configure the extension: nothing is built, but
# every file that is listed must be there, and every file that is there must be listed.
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)

function(require_same folder listed)
  file(GLOB_RECURSE there RELATIVE ${folder} ${ARGN})
  list(FILTER there EXCLUDE REGEX "__pycache__|/\\.")
  foreach(file ${there})
    if(NOT file IN_LIST listed)
      message(FATAL_ERROR "${file} is not listed in CMakeLists.txt")
    endif()
  endforeach()
  foreach(file ${listed})
    if(NOT file IN_LIST there)
      message(FATAL_ERROR "${file} is listed in CMakeLists.txt but missing")
    endif()
  endforeach()
endfunction()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(GIVEN "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  set(here ${CMAKE_CURRENT_SOURCE_DIR})
  require_same(${here} "${GIVEN_SCRIPTS}" ${here}/*.py)
  require_same(${here} "${GIVEN_RESOURCES}" ${here}/Resources/*)
  if(NOT EXISTS ${here}/${GIVEN_NAME}.py OR GIVEN_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "The module ${GIVEN_NAME} has no script of its name, or unknown arguments")
  endif()
endfunction()

function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(
    GIVEN "NO_INSTALL_SUBDIR" "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN}
    )
  require_same(${GIVEN_SOURCE_DIR} "${GIVEN_SCRIPTS}" ${GIVEN_SOURCE_DIR}/rprloc/*.py)
  require_same(
    ${GIVEN_SOURCE_DIR} "${GIVEN_RESOURCES}" ${GIVEN_SOURCE_DIR}/rprloc/*.json
    ${GIVEN_SOURCE_DIR}/rprloc/py.typed ${GIVEN_SOURCE_DIR}/models/* ${GIVEN_SOURCE_DIR}/sets/*
    )
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(GIVEN "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${GIVEN_SCRIPT})
    message(FATAL_ERROR "The test ${GIVEN_SCRIPT} is missing")
  endif()
endfunction()
