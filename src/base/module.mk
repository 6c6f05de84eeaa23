# SPDX-License-Identifier: MIT
# Words of every layer: no libc.
base_SRCS := $(call layer_sources,base)
base_KIND := freestanding
