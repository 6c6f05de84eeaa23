# SPDX-License-Identifier: MIT
# The control thread: no libc.
control_SRCS := $(call layer_sources,control)
control_KIND := freestanding
