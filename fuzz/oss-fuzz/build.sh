#!/bin/bash -eu
# Builds every target as OSS-Fuzz and ClusterFuzzLite want it: their compiler, flags and engine,
# into $OUT, with the seed corpus and, where there is one, the dictionary. fuzz_threads is for
# ThreadSanitizer, which they do not offer.
cd "$SRC/tensormem"
mutate=""
[ "${FUZZING_ENGINE:-libfuzzer}" = libfuzzer ] && mutate=-DFUZZ_MUTATE
for source in fuzz/fuzz_*.c; do
    target=$(basename "${source%.c}")
    name=${target#fuzz_}
    [ "$name" = threads ] && continue
    whole=-DTENSORMEM_IMPLEMENTATION # where it is not said by the source
    grep -q '^#define TENSORMEM_IMPLEMENTATION' "$source" && whole=""
    # shellcheck disable=SC2086
    $CC $CFLAGS $mutate $whole -std=c99 -I. -c "$source" -o "$WORK/$target.o"
    # shellcheck disable=SC2086
    $CXX $CXXFLAGS "$WORK/$target.o" -o "$OUT/$target" $LIB_FUZZING_ENGINE -lm
    zip -q -j -r "$OUT/${target}_seed_corpus.zip" "fuzz/corpus/$name"
    [ -e "fuzz/$name.dict" ] && cp "fuzz/$name.dict" "$OUT/$target.dict"
    printf '[libfuzzer]\nmax_len = 4096\ntimeout = 25\n' >"$OUT/$target.options"
done
