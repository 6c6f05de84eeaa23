# SPDX-License-Identifier: MIT
# Compiled only into the flat blob (restorer.ld), which replaces a whole process.
restorer_SRCS := $(call layer_sources,restorer)
restorer_KIND := freestanding
