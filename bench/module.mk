# SPDX-License-Identifier: MIT
bench_SRCS := $(wildcard bench/*.c bench/*.cc bench/alloc/*.c bench/alloc/*.cc)
# They are measured with and without crrun, or with another malloc, so they are plain programs:
# nothing of ours is linked.
$(addprefix $(OUT)/bench/,hog overhead open_files dirty_pages scan copy erasure alloc_bench alloc_measure): with_libcr :=
