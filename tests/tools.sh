#!/usr/bin/env bash
# Installs what `make test` uses beyond gcc and make, and the benchmarks' rivals, on Debian and
# Ubuntu. What is there already, from wherever, is left alone. Nothing here is needed to use the
# header. The rivals and gnuplot are some 170 MB, half a minute; without them a benchmark skips.
# ALL=1 also what the long campaigns use: proofs, coverage, other platforms.
set -eu

missing=""
want() { # command, package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

want_file() { # pattern, package
    compgen -G "$1" >/dev/null || missing="$missing $2"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install() {
    as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
            >/dev/null
}

want gcc gcc
want g++ g++
want make make
want git git
want clang clang
want clang++ clang
want valgrind valgrind
want python3 python3
want perl perl
want node nodejs
want npm npm
want i686-linux-gnu-gcc gcc-i686-linux-gnu
want x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
want_file '/usr/include/*/sys/types.h' libc6-dev
want_file '/usr/lib/*/libstdc++.so*' libstdc++6
want_file '/usr/i686-linux-gnu/lib/libc.a' libc6-dev-i386-cross
want_file '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a' libclang-rt-14-dev
want_file '/etc/ssl/certs/ca-certificates.crt' ca-certificates
# runtimes that need no GPU, for the backends, and what reads our DLPack
want_file '/usr/lib/*/libOpenCL.so.1' ocl-icd-libopencl1
want_file '/etc/OpenCL/vendors/pocl.icd' pocl-opencl-icd
want_file '/usr/include/CL/cl.h' opencl-c-headers
want_file '/usr/lib/*/libvulkan.so.1' libvulkan1
want_file '/usr/share/vulkan/icd.d/lvp_icd*.json' mesa-vulkan-drivers
want_file '/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json' \
    vulkan-validationlayers
want_file '/usr/include/vulkan/vulkan_core.h' libvulkan-dev
want_file '/usr/include/dlpack/dlpack.h' libdlpack-dev
want_file '/usr/lib/python3/dist-packages/numpy/__init__.py' python3-numpy

node_is_old() { # llama.cpp's package wants 20; Debian 12 has 18
    ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null
}

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || { echo "tools: install by hand:$missing"; exit 1; }
    echo "tools: installing$missing"
    # shellcheck disable=SC2086
    install $missing || { sleep 5; install $missing; }
fi
if node_is_old; then
    echo "tools: installing node 20 beside $(node --version)"
    as_root npm install --global --no-audit --no-fund node@20
    hash -r
    node_is_old && echo "tools: $(command -v node) is still $(node --version)" && exit 1
fi
missing=""
if [ "${ALL:-0}" = 1 ]; then # what nightly and release-check use beyond: 3 GB
    want clang-19 clang-19
    want llvm-cov-19 llvm-19
    want lld-19 lld-19
    want_file '/usr/lib/llvm-19/lib/clang/*/lib/linux/libclang_rt.profile-x86_64.a' libclang-rt-19-dev
    want frama-c frama-c-base
    want why3 why3
    want z3 z3
    want cvc4 cvc4
    want spin spin
    want tcc tcc
    want_file '/usr/lib/*/tcc/libtcc1.a' libtcc-dev
    want musl-gcc musl-tools
    want qemu-s390x-static qemu-user-static
    for arch in s390x:s390x aarch64:arm64 riscv64:riscv64 powerpc:powerpc powerpc64:ppc64; do
        want "${arch%:*}-linux-gnu-gcc" "gcc-${arch%:*}-linux-gnu"
        want_file "/usr/${arch%:*}-linux-gnu/lib/libc.a" "libc6-dev-${arch#*:}-cross"
    done
    want arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf
    want_file /usr/arm-linux-gnueabihf/lib/libc.a libc6-dev-armhf-cross
    want_file /usr/lib/wine/wine64 wine64
    want wine wine
    want emcc emscripten
    want wasm-ld lld
    want_file /usr/lib/wasm32-wasi/libc.a wasi-libc
    want_file '/usr/lib/llvm-14/lib/clang/*/lib/wasi/libclang_rt.builtins-wasm32.a' \
        libclang-rt-14-dev-wasm32
fi
want pkg-config pkg-config
want fio fio
want gnuplot gnuplot-nox
want_file '/usr/lib/*/pkgconfig/starpu-1.3.pc' libstarpu-dev
want_file '/usr/lib/*/libjemalloc.so.2' libjemalloc2
want_file '/usr/lib/*/libmimalloc.so.2*' libmimalloc2.0
for package in $missing; do # one by one: another release may lack one of them
    echo "tools: installing $package"
    install "$package" || echo "tools: no $package here; the benchmark against it will skip"
done
echo "tools: all there"
