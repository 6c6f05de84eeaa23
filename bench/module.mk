# SPDX-License-Identifier: MIT
bench_SRCS := $(wildcard bench/*.c bench/*.cc)
# They are measured with and without crrun, so they are plain programs: nothing of ours is linked.
$(OUT)/bench/hog $(OUT)/bench/overhead: with_libcr :=
