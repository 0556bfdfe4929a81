# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# The ROS wheels carry targets that name include folders of the machine they were built on, and
# CMake refuses to generate with those. Drop every folder that is not there, once this directory has
# found all its packages. On a real ROS nothing is missing and nothing changes.

function(vggt_drop_missing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(present "")
    foreach(folder IN LISTS folders)
      if(folder MATCHES "\\$<" OR IS_DIRECTORY "${folder}")
        list(APPEND present "${folder}")
      endif()
    endforeach()
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${present}")
  endforeach()
endfunction()

cmake_language(DEFER CALL vggt_drop_missing_includes)
