#!/usr/bin/env bash
# tests/dlpack_consumer.c as a shared library, handed to Python: what NumPy, and PyTorch where it is
# installed, make of the tensors of examples/dlpack.h, and what we make of theirs. Exit status 77:
# could not run; the last line says why.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-gcc} DIR=build/dlpack python=""
WARN="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Wstrict-prototypes -Werror"

for candidate in python3 /usr/bin/python3; do
    "$candidate" -c 'import numpy; numpy.from_dlpack' 2>/dev/null && python=$candidate && break
done
if [ -z "$python" ]; then
    echo "no python3 with numpy 1.23 or later"
    exit 77
fi
mkdir -p $DIR
# shellcheck disable=SC2086
$CC -std=c99 $WARN -O1 -g -fPIC -shared -I. tests/dlpack_consumer.c -o $DIR/libconsumer.so \
    -pthread || exit 1
"$python" tests/dlpack_consumer.py $DIR/libconsumer.so
