# SPDX-License-Identifier: MIT
# Uses libc, never libstdc++: it is loaded into every program.
interpose_SRCS := $(call layer_sources,interpose)
interpose_KIND := hosted
