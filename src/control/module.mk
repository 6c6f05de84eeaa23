# SPDX-License-Identifier: MIT
# The control thread: no libc.
control_SRCS := $(call layer_sources,control)
control_KIND := freestanding

# These run on the program's threads while their vector registers are live.
$(O)/lib/src/control/report_stopped.o: CXX_COMMON += -mgeneral-regs-only
$(O)/lib/src/control/join_stopped.o: CXX_COMMON += -mgeneral-regs-only
$(O)/lib/src/control/calls_stopped.o: CXX_COMMON += -mgeneral-regs-only
