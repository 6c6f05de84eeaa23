# SPDX-License-Identifier: MIT
# tools/cr<name>.cc is a program, tools/cr<name>_*.cc are parts of it; any other tools/*.cc is shared
# by all programs.
tools_PROGRAM_SRCS := $(foreach s,$(wildcard tools/cr*.cc),$(if $(findstring _,$(s)),,$(s)))
tools_PROGRAMS := $(basename $(notdir $(tools_PROGRAM_SRCS)))
tools_PART_SRCS := $(wildcard tools/cr*_*.cc)
tools_parts_of = $(wildcard tools/$(1)_*.cc)
tools_COMMON_SRCS := $(filter-out $(tools_PROGRAM_SRCS) $(tools_PART_SRCS),$(wildcard tools/*.cc))
tools_PKGS_crinspect := libunwind-generic
tools_PKGS_crstored := $(node_PKGS)
