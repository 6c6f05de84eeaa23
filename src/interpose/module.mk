# SPDX-License-Identifier: MIT
# Uses libc, never libstdc++: it is loaded into every program.
interpose_SRCS := $(call layer_sources,interpose)
interpose_KIND := hosted
# Those that allocate from the heap of malloc, of which the preload library has a copy of its own.
interpose_OWN_HEAP := malloc.o operator_new.o

# The compiler must not know these functions: it would make calloc of a malloc and a memset in one.
# A frame pointer costs a pair of malloc and free a twentieth of its time; backtraces use the unwind
# tables.
$(O)/lib/src/interpose/malloc.o $(O)/lib/src/interpose/operator_new.o: CXX_COMMON += \
  -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -fno-builtin-free \
  -fomit-frame-pointer
