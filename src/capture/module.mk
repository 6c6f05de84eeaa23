# SPDX-License-Identifier: MIT
# Runs while the other threads are stopped: no libc.
capture_SRCS := $(call layer_sources,capture)
capture_KIND := freestanding
