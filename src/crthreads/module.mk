# SPDX-License-Identifier: MIT
# Uses libc, except in *_stopped.cc.
crthreads_SRCS := $(call layer_sources,crthreads)
crthreads_KIND := hosted
