# tensormem: one header, nothing to build but its examples and tests. `make help` lists the targets.
# CC, CXX, CFLAGS, LDFLAGS, PREFIX and DESTDIR are respected; everything built goes to build/.
ifeq ($(origin CC),default)
CC := $(shell command -v gcc >/dev/null 2>&1 && echo gcc || echo cc)
endif
ifeq ($(origin CXX),default)
CXX := $(shell command -v g++ >/dev/null 2>&1 && echo g++ || echo c++)
endif
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
OUT ?= build
STD ?= -std=c99
WARN ?= -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Wstrict-prototypes -Werror
FUZZ_SECONDS ?= 60
export CC CXX FUZZ_SECONDS

version_part = $(shell sed -n 's/^\# *define TNM_VERSION_$(1) *//p' tensormem.h 2>/dev/null)
VERSION := $(call version_part,MAJOR).$(call version_part,MINOR).$(call version_part,PATCH)

TESTS := $(patsubst %.c,$(OUT)/%,$(wildcard tests/test_*.c))
EXAMPLES := $(patsubst %.c,$(OUT)/%,$(wildcard examples/[0-9]*.c examples/llm_stream.c))
BENCHES := $(patsubst %.c,$(OUT)/%,$(filter-out tests/bench_stream.c tests/bench_scale.c,$(wildcard tests/bench_*.c)))
STANDINS := $(patsubst tests/standin_%.c,build/standin/lib%.so,$(wildcard tests/standin_*.c)) \
	build/standin/libascend_old.so
FUZZERS := $(patsubst %.c,$(OUT)/%,$(wildcard fuzz/fuzz_*.c))

# A source may say in its first five lines what it links with: /* needs: tensormem.o -lm -pthread */
needs = $$(sed -n '1,5s:.*/\* needs\: \(.*\) \*/.*:\1:p' $(1) | sed 's:tensormem\.o:$(OUT)/&:')
compile = @mkdir -p $(@D)
compile += && echo "$(CC) $< -> $@" && $(CC) $(STD) $(WARN) -I. $(CPPFLAGS) $(CFLAGS) \
	-MMD -MF $@.d -MT $@ $< $(EXTRA) -o $@ $(LDFLAGS) $(call needs,$<)

shared = $(subst -o $@,-fPIC -shared -o $@,$(compile))

all: $(EXAMPLES) $(TESTS) ## build examples and tests (the default)

demo: ## the main job: a language model larger than its memory budget; DEMO_ARGS=--help
demo: CFLAGS = -O3 $(shell echo 'int x;' | $(CC) -march=native -xc -c - -o /dev/null 2>/dev/null && \
	echo -march=native)
demo: build/demo/llm_stream
	build/demo/llm_stream $(DEMO_ARGS)

test: ## every test, twelve minutes; the last line is the total; ONLY="samples api_pin" picks
	@tests/run.sh

conformance: $(OUT)/tests/conformance $(STANDINS) ## hold every backend that is here against the contract
	$(OUT)/tests/conformance $(BACKENDS)

bench: $(BENCHES) ## measure; one line a figure with its target; never fails on a number
	@set -e; uname -srm; for b in $(BENCHES); do echo "# $$b"; $$b $(BENCH_ARGS); done
	@tests/bench_build.sh

bench-disk: $(OUT)/tests/bench_stream ## sweeps from disk, beside mmap, StarPU and fio: 10 minutes, root
	@uname -srm; BENCH_DIR=$${BENCH_DIR:-$(OUT)} $(OUT)/tests/bench_stream $(BENCH_ARGS)

charts: ## the README's charts from what the benches printed: LOG=build/bench.log, made if absent
	@tests/charts.sh $(LOG)

bench-scale: $(OUT)/tests/bench_scale ## up to 10 million tensors: minutes, 4 GB
	$(OUT)/tests/bench_scale $(BENCH_ARGS)

bench-llama: ## tokens a second against llama.cpp in a memory cgroup; root, npm, minutes
	@tests/bench_llama.sh

fuzz: ## libFuzzer with its sanitizers on each target: MINUTES=n for all, TARGETS="api rooms"
	@MINUTES=$(MINUTES) fuzz/run.sh $(TARGETS)

valgrind: ## every test under memcheck; needs valgrind
	@ONLY=valgrind VALGRIND_ALL=1 tests/run.sh

asan: ## every test with AddressSanitizer and UBSan
	@ONLY=asan tests/run.sh

ubsan: ## every test with UBSan alone, by clang if there is one
	@ONLY=ubsan tests/run.sh

tsan: ## the tests with threads under ThreadSanitizer, by gcc and clang
	@ONLY="tsan tsan-clang" tests/run.sh

lint: ## the house rules against the files
	@tests/lint.sh

coverage: ## lines, branches and MC/DC of the header by the tests; fails below 100 %; needs clang-19
	@tests/coverage.sh

proof: ## contracts, bit tricks and two models, proved by Frama-C, Z3 and Spin: 3 minutes
	@tests/proof.sh

schedules: ## every order of two or three threads, and planted bugs; PARTS=all for the whole search
	@tests/schedule.sh $(PARTS)

full: ## every test at full scale, optimised, every checker
	@NIGHTLY=1 tests/run.sh

faults: $(OUT)/tests/test_fault ## every effect fails, alone and in pairs: hours; PART=1/7
	$(OUT)/tests/test_fault --all $(if $(PART),--part $(PART))
	$(OUT)/tests/test_fault --pairs $(if $(PART),--part $(PART))

platforms: ## built and run on every platform whose compiler and runner are here; TARGETS="tcc s390x"
	@tests/platforms.sh $(TARGETS)

nightly: ## the long campaigns, a part of the longest, and a table of them: some hours
	@MINUTES=60 PART=$${PART:-$$(date +%u | awk '{ print $$1 - 1 "/7" }')} \
		tests/campaigns.sh coverage proof schedules faults fuzz full

release-check: ## all of them, whole, and every platform: days
	@MINUTES=1440 tests/campaigns.sh coverage proof schedules faults fuzz full platforms

tools: ## install what the tests and benchmarks use (Debian, Ubuntu)
	@tests/tools.sh

install: ## copy the header to PREFIX/include
	mkdir -p $(DESTDIR)$(PREFIX)/include
	cp tensormem.h $(DESTDIR)$(PREFIX)/include/tensormem.h

clean: ## remove build/
	rm -rf build

help: ## this list
	@echo "tensormem $(VERSION)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# The header as a project has it: the implementation in one object, for whoever only calls it.
$(OUT)/tensormem.o: CPPFLAGS += -DTENSORMEM_IMPLEMENTATION -x c -c
$(OUT)/tensormem.o: tensormem.h
	$(compile)

LINKED := $(shell grep -ls '^/\* needs: tensormem\.o' tests/*.c fuzz/*.c)
$(LINKED:%.c=$(OUT)/%): $(OUT)/tensormem.o

$(OUT)/tests/%: tests/%.c
	$(compile)

$(OUT)/examples/%: examples/%.c
	$(compile)

build/demo/%: examples/%.c
	$(compile)

# Stand-ins for vendors' libraries, loaded at run time by the tests of their backends.
build/standin/lib%_old.so: CPPFLAGS = -DSTANDIN_OLD
build/standin/lib%_old.so: tests/standin_%.c
	$(shared)
build/standin/lib%.so: tests/standin_%.c
	$(shared)

standins: $(STANDINS)

$(OUT)/fuzz/%: private EXTRA = fuzz/standalone.c
$(OUT)/fuzz/%: fuzz/%.c fuzz/standalone.c
	$(compile)

# StarPU is a rival where it is installed. Its headers are not ours to keep clean.
STARPU = $(shell pkg-config --cflags --libs starpu-1.3 2>/dev/null | sed 's/-I/-isystem /g')
$(OUT)/tests/bench_stream: EXTRA = $(if $(STARPU),-DBENCH_STARPU $(STARPU))

-include $(wildcard $(OUT)/*.d $(OUT)/*/*.d build/standin/*.d)

.PHONY: all demo test conformance standins bench bench-disk bench-llama bench-scale charts fuzz valgrind asan ubsan tsan \
	lint coverage proof schedules faults platforms full nightly release-check tools install clean help
