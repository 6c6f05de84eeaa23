# SPDX-License-Identifier: MIT
# tools/cr<name>.cc is a program; any other tools/*.cc is shared by all of them.
tools_PROGRAM_SRCS := $(foreach s,$(wildcard tools/cr*.cc),$(if $(findstring _,$(s)),,$(s)))
tools_PROGRAMS := $(basename $(notdir $(tools_PROGRAM_SRCS)))
tools_COMMON_SRCS := $(filter-out $(tools_PROGRAM_SRCS),$(wildcard tools/*.cc))
tools_PKGS_crinspect := libunwind-generic
