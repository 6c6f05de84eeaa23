# SPDX-License-Identifier: MIT
#
# checkpoint_restore: one non-recursive build. `make help` lists the targets.
#
# Each folder has a module.mk that says which sources it has (by wildcard: a new file needs no edit)
# and, for the layers under src/, how they are compiled. The rules are all here. Every source can be
# compiled in up to three ways, each in its own object folder under $(O):
#   lib/   for the two libraries that live inside the checkpointed program (never sanitized)
#   blob/  for the restorer, which is linked alone into one flat position-independent blob
#   host/  for the programs and the unit tests; SAN=address|thread|undefined applies here
#
# Settings: SAN=address|thread|undefined  V=1 (show commands)  WERROR=0 (warnings stay warnings)
#           BUILD=dir (default build)  PREFIX=/usr/local  DESTDIR=  INSTALL_CAPS=1

# As many compilers at a time as there are processors, unless -j says otherwise.
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif

BUILD  ?= build
PREFIX ?= /usr/local
DESTDIR ?=
V ?= 0
SAN ?=
WERROR ?= 1
ARCH := x86_64
VERSION := 0.1.0
SOVERSION := 0

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif
LD ?= ld
OBJCOPY ?= objcopy
READELF ?= readelf
NM ?= nm
PKG_CONFIG ?= pkg-config
PYTHON ?= python3

# O: objects. OUT: lib/ bin/ libexec/ demos/ tests/ bench/ of this configuration.
ifeq ($(SAN),)
O := $(BUILD)/release
OUT := $(BUILD)
else ifeq ($(SAN),address)
O := $(BUILD)/asan
else ifeq ($(SAN),thread)
O := $(BUILD)/tsan
else ifeq ($(SAN),undefined)
O := $(BUILD)/ubsan
else
$(error SAN=$(SAN): must be address, thread or undefined)
endif
OUT ?= $(O)
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all)

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' '$(1)' '$(2)')

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all objects tests check check-unit check-system check-crash check-store check-fuzz soak fuzz bench bench-alloc bench-store \
        demo demo-store lint tidy format man install uninstall deps deps-system help clean FORCE

## all           build the libraries, the programs and the demos (default)
all:

# ---------------------------------------------------------------------------- flags
WARN := -Wall -Wextra -Wshadow $(if $(filter 0,$(WERROR)),,-Werror)
# The public header as a system header: its struct and function of one name (as stat(2)) are no mistake.
INC  := -isystem include -Isrc
# -MD, not -MMD: the public header counts as a system header, and must count as a prerequisite too.
DEPFLAGS = -MD -MP -MF $(@:.o=.d)

# What may run while other threads are stopped, or without libc (docs/contexts.md).
FREESTANDING := -ffreestanding -fno-threadsafe-statics -fno-stack-protector
CXX_COMMON := -std=c++20 -O2 -g -fno-exceptions -fno-rtti -fvisibility=hidden -fno-gnu-unique \
              -fno-omit-frame-pointer $(WARN) $(INC)

# A file is freestanding if its layer is, or if its name says so.
kind_of = $(if $(filter %_stopped.cc,$(1)),freestanding,$($(word 2,$(subst /, ,$(1)))_KIND))
lib_flags = $(CXX_COMMON) -fPIC -ftls-model=initial-exec \
            $(if $(filter freestanding,$(call kind_of,$(1))),$(FREESTANDING))
blob_flags := $(CXX_COMMON) $(FREESTANDING) -fpie -fno-jump-tables -fcf-protection=none \
              -ffunction-sections -fdata-sections -fno-tree-loop-distribute-patterns \
              -fno-asynchronous-unwind-tables -DCR_NO_VARIABLES
host_flags := $(CXX_COMMON) $(SANFLAGS)
tool_flags := -std=c++20 -O2 -g -fno-omit-frame-pointer $(WARN) $(INC) -I. $(SANFLAGS)
test_flags := -std=c++20 -O2 -g -fno-omit-frame-pointer -Wall -Wextra $(INC) -I. $(SANFLAGS)

# ---------------------------------------------------------------------------- modules
LAYERS := base rawsys format restorer os nvheap crthreads capture control api interpose store node agent
layer_sources = $(wildcard src/$(1)/*.cc src/$(1)/arch/$(ARCH)/*.cc src/$(1)/arch/$(ARCH)/*.S)
to_obj = $(addprefix $(O)/$(1)/,$(addsuffix .o,$(basename $(2))))

include $(foreach l,$(LAYERS),src/$(l)/module.mk)
include tools/module.mk demos/module.mk tests/module.mk bench/module.mk

sources_of = $(foreach l,$(1),$($(l)_SRCS))

# ---------------------------------------------------------------------------- compiling
# Recompile when the flags change, also from the command line.
$(O)/flags.stamp: FORCE
	@mkdir -p $(@D); printf '%s\n' '$(CC) $(CXX) $(CXX_COMMON) $(FREESTANDING) $(blob_flags) $(tool_flags)' >$@.new; \
	if cmp -s $@.new $@; then rm -f $@.new; else mv -f $@.new $@; fi

DEPS_STAMP := $(BUILD)/deps-build.stamp
DEPS_ALL_STAMP := $(BUILD)/deps.stamp
PRE := $(O)/flags.stamp | $(DEPS_STAMP)

$(O)/lib/%.o: %.cc $(PRE)
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(call lib_flags,$<) $(DEPFLAGS) -c -o $@ $<
$(O)/lib/%.o: %.S $(PRE)
	$(call say,AS,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -fPIC -g $(INC) $(DEPFLAGS) -c -o $@ $<
$(O)/blob/%.o: %.cc $(PRE)
	$(call say,CXX,$< (blob))
	@mkdir -p $(@D)
	$(Q)$(CXX) $(blob_flags) $(DEPFLAGS) -c -o $@ $<
$(O)/blob/%.o: %.S $(PRE)
	$(call say,AS,$< (blob))
	@mkdir -p $(@D)
	$(Q)$(CC) -fpie -fcf-protection=none -g $(INC) $(DEPFLAGS) -c -o $@ $<
$(O)/host/src/%.o: src/%.cc $(PRE)
	$(call say,CXX,src/$*.cc (host))
	@mkdir -p $(@D)
	$(Q)$(CXX) $(host_flags) $(DEPFLAGS) -c -o $@ $<
$(O)/host/src/%.o: src/%.S $(PRE)
	$(call say,AS,src/$*.S (host))
	@mkdir -p $(@D)
	$(Q)$(CC) -fPIE -g $(INC) $(DEPFLAGS) -c -o $@ $<
$(O)/host/tools/%.o: tools/%.cc $(PRE)
	$(call say,CXX,tools/$*.cc)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(tool_flags) $(DEPFLAGS) -c -o $@ $<
$(O)/host/tests/%.o: tests/%.cc $(PRE) $(DEPS_ALL_STAMP)
	$(call say,CXX,tests/$*.cc)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(test_flags) $(DEPFLAGS) -c -o $@ $<

# ---------------------------------------------------------------------------- the restorer blob
# Entry at offset 0, then text, read-only data, data and zeroed data, all as bytes. Nothing relocates
# it, so it must have no dynamic relocation and no undefined symbol.
BLOB_BIN :=
BLOB_O :=
ifneq ($(restorer_SRCS),)
BLOB_OBJS := $(call to_obj,blob,$(restorer_SRCS) $(call sources_of,base rawsys format))
BLOB_BIN := $(O)/restorer.bin
BLOB_O := $(O)/restorer_blob.o
endif

$(O)/restorer.elf: $(BLOB_OBJS) src/restorer/restorer.ld
	$(call say,LD,$@)
	$(Q)$(LD) -pie --no-dynamic-linker -z noexecstack -z norelro --build-id=none --gc-sections \
	  --orphan-handling=error -T src/restorer/restorer.ld -e cr_restorer_start -o $@ $(BLOB_OBJS)
	@if $(READELF) -rW $@ | grep -q R_X86_64; then $(READELF) -rW $@; \
	  echo '$@: the restorer must have no dynamic relocation (a pointer in static data?)' >&2; exit 1; fi
	@if $(NM) $@ | grep ' U ' || $(NM) -A $(BLOB_OBJS) | grep ' [wv] '; then \
	  echo '$@: the restorer must have no undefined symbol' >&2; exit 1; fi
$(O)/restorer.bin: $(O)/restorer.elf
	$(call say,BIN,$@)
	$(Q)$(OBJCOPY) -O binary -j .text -j .data $< $@
$(O)/restorer_blob.S: Makefile | $(DEPS_STAMP)
	@mkdir -p $(@D)
	@printf '%s\n' '/* Generated. The restorer, to be copied into a hole of the old memory map. */' \
	  '        .section .rodata.cr_restorer_blob, "a", @progbits' \
	  '        .balign 4096' \
	  '        .globl  cr_restorer_blob, cr_restorer_blob_end' \
	  '        .hidden cr_restorer_blob, cr_restorer_blob_end' \
	  'cr_restorer_blob:' \
	  '        .incbin "$(O)/restorer.bin"' \
	  'cr_restorer_blob_end:' \
	  '        .section .note.GNU-stack, "", @progbits' >$@
$(O)/restorer_blob.o: $(O)/restorer_blob.S $(O)/restorer.bin
	$(call say,AS,$@)
	$(Q)$(CC) -c -o $@ $<

# ---------------------------------------------------------------------------- the two libraries
# os comes as an archive: only what the engine really uses of it is linked, and libstdc++ never is.
ENGINE_LAYERS := base rawsys format nvheap crthreads capture control api
ENGINE_OBJS := $(call to_obj,lib,$(call sources_of,$(ENGINE_LAYERS)))
INTERPOSE_OBJS := $(call to_obj,lib,$(interpose_SRCS))
# malloc has an nvheap of its own in the preload library: these objects are joined with a second copy
# of the heap into one whose names nobody else sees, and whose constructors malloc.cc calls.
MALLOC_OBJS := $(filter $(addprefix %/,$(interpose_OWN_HEAP)),$(INTERPOSE_OBJS))
OWN_HEAP_O := $(O)/malloc_own_heap.o
OWN_HEAP_OBJS := $(MALLOC_OBJS) $(call to_obj,lib,$(call sources_of,base rawsys nvheap))
PRELOAD_OBJS := $(ENGINE_OBJS) $(filter-out $(MALLOC_OBJS),$(INTERPOSE_OBJS)) $(OWN_HEAP_O)
OS_LIB_OBJS := $(call to_obj,lib,$(os_SRCS))
OS_LIB_A := $(if $(OS_LIB_OBJS),$(O)/libos_inprogram.a)
SO_FLAGS := -shared -static-libgcc -Wl,-z,defs -Wl,-z,now -Wl,-z,relro -Wl,-z,noexecstack \
            -Wl,--exclude-libs,ALL -Wl,--build-id

LIBCR := $(OUT)/lib/libcheckpoint_restore.so
LIBCR_REAL := $(LIBCR).$(VERSION)
LIBPRELOAD := $(OUT)/lib/libcrpreload.so
LIBS := $(if $(api_SRCS),$(LIBCR)) $(if $(interpose_SRCS),$(LIBPRELOAD))

$(O)/libos_inprogram.a: $(OS_LIB_OBJS)
	$(call say,AR,$@)
	@rm -f $@
	$(Q)ar crs $@ $^
$(LIBCR_REAL): $(ENGINE_OBJS) $(BLOB_O) $(OS_LIB_A) src/api/libcheckpoint_restore.map
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(SO_FLAGS) -Wl,-soname,libcheckpoint_restore.so.$(SOVERSION) \
	  -Wl,--version-script,src/api/libcheckpoint_restore.map -o $@ \
	  $(ENGINE_OBJS) $(BLOB_O) $(OS_LIB_A) -lpthread -lc
$(LIBCR): $(LIBCR_REAL)
	@ln -sf $(notdir $(LIBCR_REAL)) $(LIBCR).$(SOVERSION)
	@ln -sf libcheckpoint_restore.so.$(SOVERSION) $@
$(OWN_HEAP_O): $(OWN_HEAP_OBJS)
	$(call say,LD,$@)
	$(Q)$(LD) -r --force-group-allocation -o $@.joined $^
	$(Q)$(OBJCOPY) --localize-hidden --rename-section .init_array.00101=cr_own_heap_init $@.joined $@
	@if $(READELF) -SW $@ | grep -q '\.init_array'; then \
	  echo '$@: a constructor that malloc.cc does not call; give it priority 101' >&2; exit 1; fi
	@rm -f $@.joined
# Exports the API, and of src/interpose what it defines visibly: the C functions that it interposes,
# and operator new and delete. tools/dev/check_symbols has the list.
$(O)/libcrpreload.map: $(INTERPOSE_OBJS)
	@{ echo '/* Generated. */ { global: cr*;'; $(NM) -g -P --defined-only $^ | \
	  awk 'NF > 1 && $$1 ~ /^(_Zn[wa]|_Zd[la]|__open|[a-z])[^@]*$$/ { print "  " $$1 ";" }' | sort -u; \
	  echo 'local: *; };'; } >$@
$(LIBPRELOAD): $(PRELOAD_OBJS) $(BLOB_O) $(OS_LIB_A) $(O)/libcrpreload.map
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(SO_FLAGS) -Wl,-z,nodelete -Wl,-soname,libcrpreload.so \
	  -Wl,--version-script,$(O)/libcrpreload.map -o $@ \
	  $(PRELOAD_OBJS) $(BLOB_O) $(OS_LIB_A) -lpthread -lc

# ---------------------------------------------------------------------------- the programs
# Internal archive of everything outside the checkpointed program.
AGENT_LAYERS := base rawsys format os store node agent
AGENT_OBJS := $(call to_obj,host,$(call sources_of,$(AGENT_LAYERS)))
AGENT_A := $(if $(AGENT_OBJS),$(O)/libcragent.a)
TOOL_COMMON_OBJS := $(call to_obj,host,$(tools_COMMON_SRCS))
TOOL_LIBS := -luring -lxxhash -lpthread
# Only crstored and its tests are linked with these: no other program needs a network library.
NODE_LIBS = $$($(PKG_CONFIG) --libs $(node_PKGS))

LIBEXEC := $(OUT)/libexec/checkpoint_restore
BIN_TOOLS := $(addprefix $(OUT)/bin/,$(filter-out cragent crhost,$(tools_PROGRAMS)))
LIBEXEC_TOOLS := $(addprefix $(LIBEXEC)/,$(filter cragent crhost,$(tools_PROGRAMS)))

$(O)/libcragent.a: $(AGENT_OBJS)
	$(call say,AR,$@)
	@rm -f $@
	$(Q)ar crs $@ $^

# libstdc++ is linked statically so that the programs run on any node with the same libc.
link_tool = $(CXX) $(if $(SAN),$(SANFLAGS),-static-libstdc++ -static-libgcc) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(TOOL_LIBS)
$(BIN_TOOLS): $(OUT)/bin/%: $(O)/host/tools/%.o $(TOOL_COMMON_OBJS) $(AGENT_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(link_tool) $(if $(tools_PKGS_$*),$$($(PKG_CONFIG) --libs $(tools_PKGS_$*)))
$(foreach t,$(tools_PROGRAMS),$(eval $(filter %/$(t),$(BIN_TOOLS) $(LIBEXEC_TOOLS)): $(call to_obj,host,$(call tools_parts_of,$(t)))))
$(LIBEXEC_TOOLS): $(LIBEXEC)/%: $(O)/host/tools/%.o $(TOOL_COMMON_OBJS) $(AGENT_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(link_tool)

# ---------------------------------------------------------------------------- small programs
# Demos, tests and benchmarks: one file, one program. A file may ask for more flags in a comment
# anywhere in it: "CR_BUILD: -lfoo -static".
own_flags = $$(sed -n 's|.*CR_BUILD: *\([^*]*\).*|\1|p' $<)
small_c = $(CC) -O2 -g -Wall -pthread -Iinclude -o $@ $<
small_cc = $(CXX) -std=c++20 -O2 -g -Wall -pthread -Iinclude -o $@ $<
with_libcr = -L$(OUT)/lib -lcheckpoint_restore -Wl,-rpath,'$$ORIGIN/$(1)'
compile_small = $(if $(filter %.c,$<),$(small_c),$(small_cc))
names_of = $(basename $(notdir $(1)))

DEMOS := $(addprefix $(OUT)/demos/,$(call names_of,$(demos_SRCS)))
SYSTEM_LIB_SRCS := $(foreach s,$(system_SRCS),$(if $(filter lib_%,$(notdir $(s))),$(s)))
SYSTEM_PLAIN_SRCS := $(filter-out $(SYSTEM_LIB_SRCS),$(system_SRCS))
SYSTEM_LIB := $(addprefix $(OUT)/tests/programs/,$(call names_of,$(SYSTEM_LIB_SRCS)))
SYSTEM_PLAIN := $(addprefix $(OUT)/tests/programs/,$(call names_of,$(SYSTEM_PLAIN_SRCS)))
BENCHES := $(addprefix $(OUT)/bench/,$(call names_of,$(bench_SRCS)))

define small_rule # target folder, source, extra prerequisites, link flags
$(OUT)/$(1)/$(basename $(notdir $(2))): $(2) $(PRE) $(3)
	$$(call say,CC,$$<)
	@mkdir -p $$(@D) $(O)/small/$(1)
	$$(Q)$$(compile_small) -MD -MP -MF $(O)/small/$(1)/$$(@F).d $(4) -lm $$(own_flags)
-include $(O)/small/$(1)/$(basename $(notdir $(2))).d
endef
$(foreach s,$(demos_SRCS),$(eval $(call small_rule,demos,$(s),$(LIBCR),$$(call with_libcr,../lib))))
$(foreach s,$(SYSTEM_LIB_SRCS),$(eval $(call small_rule,tests/programs,$(s),$(LIBCR),$$(call with_libcr,../../lib))))
$(foreach s,$(SYSTEM_PLAIN_SRCS),$(eval $(call small_rule,tests/programs,$(s),,)))
$(foreach s,$(bench_SRCS),$(eval $(call small_rule,bench,$(s),$(LIBCR),$$(call with_libcr,../lib))))
# These measure layers by themselves.
$(OUT)/bench/link: with_libcr = $(AGENT_A) -lucp -lucs -lcrypto $(TOOL_LIBS)
$(OUT)/bench/writer: with_libcr = $(AGENT_A) $(TOOL_LIBS)
$(OUT)/bench/link $(OUT)/bench/writer: $(AGENT_A)

# Plug-ins: one file, one shared object, of nothing but the C library.
PLUGINS := $(patsubst plugins/%.c,$(OUT)/lib/%.so,$(wildcard plugins/*.c))
$(PLUGINS): $(OUT)/lib/%.so: plugins/%.c include/checkpoint_restore_plugin.h $(PRE)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -g $(WARN) -fPIC -shared -Iinclude -o $@ $<

# ---------------------------------------------------------------------------- unit tests
# All layers but the two that take the process over, compiled hosted, so that sanitizers see them.
UNIT_LAYERS := base rawsys format os nvheap crthreads capture control api store node agent
UNIT_LIB_OBJS := $(call to_obj,host,$(call sources_of,$(UNIT_LAYERS)))
UNIT_OBJS := $(call to_obj,host,$(unit_SRCS))
UNIT := $(if $(unit_SRCS),$(OUT)/tests/unit_tests)

$(O)/libunit.a: $(UNIT_LIB_OBJS) $(BLOB_O)
	$(call say,AR,$@)
	@rm -f $@
	$(Q)ar crs $@ $^
$(UNIT_OBJS): | $(DEPS_ALL_STAMP)
$(OUT)/tests/unit_tests: $(UNIT_OBJS) $(O)/libunit.a
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(SANFLAGS) -o $@ $(UNIT_OBJS) $(O)/libunit.a -lcriterion $(TOOL_LIBS) $(NODE_LIBS)

# ---------------------------------------------------------------------------- crash tests
# tests/crash/<name>.cc is a program; files in tests/crash/common are shared by all of them.
CRASH := $(addprefix $(OUT)/tests/crash/,$(call names_of,$(crash_SRCS)))
CRASH_COMMON_OBJS := $(call to_obj,host,$(crash_COMMON_SRCS))
$(CRASH): $(OUT)/tests/crash/%: $(O)/host/tests/crash/%.o $(CRASH_COMMON_OBJS) $(AGENT_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(SANFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(TOOL_LIBS)

# ---------------------------------------------------------------------------- fuzzing
# tests/fuzz/<name>.cc defines LLVMFuzzerTestOneInput; tests/fuzz/corpus/<name>/ are its first inputs.
# tools/dev/fuzz_main.cc mutates them, guided by coverage, so that g++ alone is enough.
FUZZ_O := $(BUILD)/fuzz
FUZZ_SAN := -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_COV := -fsanitize-coverage=trace-pc
FUZZ_SECONDS ?= 600
FUZZ_CHECK_SECONDS ?= 5
FUZZ_LAYERS := base rawsys format os store nvheap
FUZZ_LIB_OBJS := $(foreach s,$(call sources_of,$(FUZZ_LAYERS)),$(FUZZ_O)/$(basename $(s)).o)
FUZZ_OBJS := $(addprefix $(FUZZ_O)/,$(fuzz_SRCS:.cc=.o))
FUZZERS := $(addprefix $(BUILD)/tests/fuzz/,$(call names_of,$(fuzz_SRCS)))

$(FUZZ_O)/%.o: %.cc $(PRE)
	$(call say,CXX,$< (fuzz))
	@mkdir -p $(@D)
	$(Q)$(CXX) $(tool_flags) $(FUZZ_SAN) $(if $(filter tools/%,$<),,$(FUZZ_COV)) $(DEPFLAGS) -c -o $@ $<
$(FUZZ_O)/%.o: %.S $(PRE)
	@mkdir -p $(@D)
	$(Q)$(CC) -fPIE -g $(INC) $(DEPFLAGS) -c -o $@ $<
$(FUZZ_O)/libfuzzed.a: $(FUZZ_LIB_OBJS)
	@rm -f $@
	$(Q)ar crs $@ $^
$(FUZZERS): $(BUILD)/tests/fuzz/%: $(FUZZ_O)/tests/fuzz/%.o $(FUZZ_O)/tools/dev/fuzz_main.o $(FUZZ_O)/libfuzzed.a
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(FUZZ_SAN) -o $@ $^ $(TOOL_LIBS)
.SECONDARY: $(FUZZ_OBJS) $(FUZZ_O)/tools/dev/fuzz_main.o

# ---------------------------------------------------------------------------- stress
# tests/stress/heap_stress.cc with the heap's own sources, once for each sanitizer.
STRESS := $(addprefix $(BUILD)/tests/stress/heap_stress_,thread address)
$(STRESS): $(BUILD)/tests/stress/heap_stress_%: tests/stress/heap_stress.cc tests/unit/nvheap/random.h \
    $(call sources_of,base rawsys nvheap) $(wildcard src/nvheap/*.h) $(PRE)
	$(call say,CXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(subst -O2,-O1,$(test_flags)) -fsanitize=$* -fno-sanitize-recover=all -pthread -o $@ \
	  $(filter %.cc %.S,$^)

# ---------------------------------------------------------------------------- building
all: $(LIBS) $(BIN_TOOLS) $(LIBEXEC_TOOLS) $(DEMOS) $(PLUGINS)

TOOL_OBJS := $(addprefix $(O)/host/tools/,$(addsuffix .o,$(tools_PROGRAMS))) $(TOOL_COMMON_OBJS) \
             $(call to_obj,host,$(tools_PART_SRCS))
IN_PROGRAM_OBJS := $(ENGINE_OBJS) $(INTERPOSE_OBJS) $(OS_LIB_OBJS)
## objects       compile everything, link nothing
objects: $(IN_PROGRAM_OBJS) $(BLOB_OBJS) $(AGENT_OBJS) $(UNIT_LIB_OBJS) $(TOOL_OBJS)

## tests         build all test programs, run none
tests: $(UNIT) $(SYSTEM_PLAIN) $(SYSTEM_LIB) $(CRASH) $(FUZZERS) $(STRESS)

# ---------------------------------------------------------------------------- running
# A make that a test runs is not ours.
RUN_TESTS = env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL CR_BUILD_DIR='$(abspath $(OUT))' $(PYTHON) tests/run_all
## check         run all tests (CHECK_ARGS= goes to tests/run_all)
check: deps all tests
	$(Q)$(RUN_TESTS) $(CHECK_ARGS)
## check-unit    run the unit tests; SAN=address, thread or undefined runs them under that sanitizer
check-unit: deps $(UNIT)
	$(Q)$(RUN_TESTS) unit $(CHECK_ARGS)
## check-system  run all system tests, with programs of others that it installs, and print the table of kinds
check-system: deps-system all tests
	$(Q)$(RUN_TESTS) --thorough system kinds files shared sockets terminal clock cli inspect real servers $(CHECK_ARGS)
## check-crash   run the crash tests: die at each step of writing an image
check-crash: deps all tests
	$(Q)$(RUN_TESTS) --thorough crash $(CHECK_ARGS)
## check-store   run all tests of the node store: lose nodes and links at any time, flush, drain
check-store: deps all tests
	$(Q)$(RUN_TESTS) --thorough store flush $(CHECK_ARGS)
## soak          checkpoints every 10 ms and random kills for SOAK_SECONDS=600 (SOAK_ARGS= goes to tests/crash/soak.py)
SOAK_SECONDS ?= 600
soak: deps all tests
	$(Q)CR_BUILD_DIR='$(abspath $(OUT))' $(PYTHON) tests/crash/soak.py --seconds $(SOAK_SECONDS) $(SOAK_ARGS)
## check-fuzz    feed each reader of images and messages damaged input for FUZZ_CHECK_SECONDS=5
check-fuzz: deps $(FUZZERS)
	$(Q)set -e; for f in $(FUZZERS); do $$f -seconds=$(FUZZ_CHECK_SECONDS) -seed=1 tests/fuzz/corpus/$${f##*/}; done
## fuzz          the same with a new seed and for FUZZ_SECONDS=600 each
fuzz: deps $(FUZZERS)
	$(Q)set -e; for f in $(FUZZERS); do $$f -seconds=$(FUZZ_SECONDS) tests/fuzz/corpus/$${f##*/}; done
## bench         run the benchmarks (BENCH_ARGS= goes to bench/run.py)
bench: deps all $(BENCHES)
	$(Q)CR_BUILD_DIR='$(abspath $(OUT))' $(PYTHON) bench/run.py $(BENCH_ARGS)
## bench-alloc   compare allocators: CPU, memory, pages dirtied (BENCH_ARGS= goes to bench/alloc/run.py)
bench-alloc: deps all $(BENCHES)
	$(Q)CR_BUILD_DIR='$(abspath $(OUT))' $(PYTHON) bench/alloc/run.py --dirty --write $(BENCH_ARGS)
## bench-store   how fast checkpoints get to other nodes and back (BENCH_ARGS= goes to bench/store.py)
bench-store: deps all $(BENCHES)
	$(Q)CR_BUILD_DIR='$(abspath $(OUT))' $(PYTHON) bench/store.py $(BENCH_ARGS)
## demo          show what it does: run the demonstrations one after the other
demo: deps all
	$(Q)CR_BUILD_DIR='$(abspath $(OUT))' demos/demo.sh

## demo-store    lose a node and go on on another: three nodes in namespaces, or ports
demo-store: deps all
	$(Q)CR_BUILD_DIR='$(abspath $(OUT))' demos/store.sh

# ---------------------------------------------------------------------------- checking the sources
CXX_FILES = $(wildcard include/*.h $(foreach d,src tools tests,$(d)/*.h $(d)/*.cc $(d)/*/*.h $(d)/*/*.cc \
  $(d)/*/*/*.h $(d)/*/*/*.cc $(d)/*/*/*/*.h $(d)/*/*/*/*.cc) demos/*.c demos/*.cc bench/*.c bench/*.cc \
  tests/system/programs/*.c)
TIDY_OK := $(patsubst %.cc,$(O)/tidy/%.ok,$(filter %.cc,$(foreach l,$(LAYERS),$($(l)_SRCS)) $(tools_PROGRAM_SRCS) $(tools_PART_SRCS) $(tools_COMMON_SRCS)))

## lint          check layers, symbols, format, headers, docs and man pages
lint: $(IN_PROGRAM_OBJS) $(LIBS)
	$(Q)$(PYTHON) tools/dev/lint --objects $(O)/lib --libraries $(OUT)/lib
## tidy          run clang-tidy over src/ and tools/, only what changed since the last time
tidy: $(TIDY_OK)
$(O)/tidy/%.ok: %.cc .clang-tidy
	$(call say,TIDY,$<)
	@mkdir -p $(@D)
	$(Q)clang-tidy --quiet $< -- -x c++ -std=c++20 -fno-rtti $(WARN) $(INC) -I. -Wthread-safety \
	  -MD -MP -MF $(@:.ok=.d) -MT $@
	@touch $@
## format        rewrite the sources with clang-format
format:
	clang-format -i $(CXX_FILES)
## man           check the man pages and render them to build/man as text
man:
	@mkdir -p $(BUILD)/man
	$(Q)set -e; for p in $(MAN_PAGES); do mandoc -T lint -W warning $$p; \
	  mandoc -T utf8 $$p | sed 's/.\x08//g' >$(BUILD)/man/$${p##*/}.txt; done; echo "$(words $(MAN_PAGES)) pages in $(BUILD)/man"

# ---------------------------------------------------------------------------- installing
# The programs find their parts relative to themselves: ../lib/libcrpreload.so and
# ../libexec/checkpoint_restore/cragent, so the tree can be moved as a whole.
MAN_PAGES := $(sort $(foreach n,1 3 5 7 8,$(wildcard docs/man/*.$(n))))
D := $(DESTDIR)$(PREFIX)
COMPLETIONS := $(D)/share/bash-completion/completions
INSTALL_CAPS ?= 0

## install       install under PREFIX=/usr/local; INSTALL_CAPS=1 lets crrestore keep process ids unprivileged
install: all
	install -d $(D)/bin $(D)/lib/pkgconfig $(D)/libexec/checkpoint_restore $(D)/include
	install -m 755 $(BIN_TOOLS) $(D)/bin
	install -m 755 $(LIBEXEC_TOOLS) $(D)/libexec/checkpoint_restore
	install -m 755 $(LIBCR_REAL) $(LIBPRELOAD) $(D)/lib
	ln -sf $(notdir $(LIBCR_REAL)) $(D)/lib/$(notdir $(LIBCR)).$(SOVERSION)
	ln -sf $(notdir $(LIBCR)).$(SOVERSION) $(D)/lib/$(notdir $(LIBCR))
	install -m 755 $(PLUGINS) $(D)/lib
	install -m 644 include/checkpoint_restore.h include/checkpoint_restore_plugin.h $(D)/include
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' checkpoint_restore.pc.in >$(D)/lib/pkgconfig/checkpoint_restore.pc
	chmod 644 $(D)/lib/pkgconfig/checkpoint_restore.pc
	$(foreach p,$(MAN_PAGES),install -D -m 644 $(p) $(D)/share/man/man$(subst .,,$(suffix $(p)))/$(notdir $(p)) &&) true
	install -d $(D)/lib/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' tools/crstored.service.in >$(D)/lib/systemd/system/crstored.service
	chmod 644 $(D)/lib/systemd/system/crstored.service
	install -D -m 644 tools/completion/checkpoint_restore.bash $(COMPLETIONS)/crrun
	$(foreach t,$(filter-out crrun,$(notdir $(BIN_TOOLS))),ln -sf crrun $(COMPLETIONS)/$(t) &&) true
	[ -n '$(DESTDIR)' ] || PATH=$$PATH:/sbin:/usr/sbin ldconfig 2>/dev/null || true
ifeq ($(INSTALL_CAPS),1)
	PATH=$$PATH:/sbin:/usr/sbin setcap cap_checkpoint_restore+ep $(D)/bin/crrestore || \
	  echo 'install: setcap failed: crrestore works, but an unprivileged user gets back the same process ids only in a namespace' >&2
else
	@echo 'To let crrestore keep process ids for unprivileged users: setcap cap_checkpoint_restore+ep $(PREFIX)/bin/crrestore (or install with INSTALL_CAPS=1)'
endif

## uninstall     remove what install put there
uninstall:
	rm -f $(addprefix $(D)/bin/,$(notdir $(BIN_TOOLS))) $(D)/include/checkpoint_restore.h $(D)/include/checkpoint_restore_plugin.h
	rm -f $(addprefix $(D)/lib/,$(notdir $(LIBCR) $(LIBCR).$(SOVERSION) $(LIBCR_REAL) $(LIBPRELOAD) $(PLUGINS)) pkgconfig/checkpoint_restore.pc)
	rm -f $(addprefix $(D)/libexec/checkpoint_restore/,$(notdir $(LIBEXEC_TOOLS)))
	rm -f $(foreach p,$(MAN_PAGES),$(D)/share/man/man$(subst .,,$(suffix $(p)))/$(notdir $(p)))
	rm -f $(addprefix $(COMPLETIONS)/,$(notdir $(BIN_TOOLS))) $(D)/lib/systemd/system/crstored.service
	rmdir $(D)/libexec/checkpoint_restore 2>/dev/null || true
	[ -n '$(DESTDIR)' ] || PATH=$$PATH:/sbin:/usr/sbin ldconfig 2>/dev/null || true

# ---------------------------------------------------------------------------- the rest
## deps          check for the Debian packages needed; as root, install what is missing
deps: $(DEPS_ALL_STAMP)
$(DEPS_ALL_STAMP): tools/dev/install_deps | $(DEPS_STAMP)
	@mkdir -p $(@D)
	$(Q)tools/dev/install_deps all
	@touch $@
deps-system: deps
	$(Q)tools/dev/install_deps system
$(DEPS_STAMP): tools/dev/install_deps
	@mkdir -p $(@D)
	$(Q)tools/dev/install_deps build
	@touch $@

## help          show this list
help:
	@echo 'make [target ...] [V=1] [SAN=address|thread|undefined] [WERROR=0] [BUILD=build] [-j N]'
	@sed -n 's/^## /  /p' Makefile

## clean         remove the build folder
clean:
	rm -rf -- '$(BUILD)'

ALL_OBJS := $(IN_PROGRAM_OBJS) $(BLOB_OBJS) $(AGENT_OBJS) $(UNIT_LIB_OBJS) $(UNIT_OBJS) $(TOOL_OBJS) \
            $(CRASH_COMMON_OBJS) $(call to_obj,host,$(crash_SRCS)) \
            $(FUZZ_LIB_OBJS) $(FUZZ_OBJS) $(FUZZ_O)/tools/dev/fuzz_main.o
-include $(sort $(ALL_OBJS:.o=.d) $(TIDY_OK:.ok=.d))
