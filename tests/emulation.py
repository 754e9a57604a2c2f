"""CUDA kernels on the host: their very source, compiled by g++, with a fiber for each thread.

Blocks run one after the other. Within a block the threads take turns at barriers and shuffles,
first to last or last to first: kernels whose results depend on that have a race. Shared memory
begins as NaN, and what lies behind it must stay as it was.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

COMPILER = shutil.which("g++")

_BEFORE = r"""
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Dim { int x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(n)

enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Fiber { jmp_buf place; State state; float exchanged; std::vector<char> stack; };
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static int running;

// _setjmp and _longjmp switch without a call of the system, as swapcontext needs one
static void wait_as(State state) {
    const Dim thread = threadIdx;
    fibers[running].state = state;
    if (!_setjmp(fibers[running].place)) _longjmp(scheduler, 1);
    threadIdx = thread;
}
static void __syncthreads() { wait_as(AT_BLOCK); }
static float __shfl_xor_sync(unsigned, float x, int distance) {
    const int me = running;
    fibers[me].exchanged = x;
    wait_as(AT_WARP);
    const float result = fibers[me ^ distance].exchanged;
    wait_as(AT_WARP);
    return result;
}
"""

_AFTER = r"""
constexpr int MOST_SHARED = 12288, GUARD = 64;
float shared[MOST_SHARED + GUARD];

static void (*body)(void**);
static void** arguments;
static void run_threads() {
    for (;;) {
        body(arguments);
        wait_as(DONE);
    }
}
static void start(Fiber& fiber) {
    ucontext_t context;
    fiber.stack.resize(32 * 1024);
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = fiber.stack.size();
    context.uc_link = nullptr;
    makecontext(&context, run_threads, 0);
    setcontext(&context);
}
static void resume(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.stack.empty()) start(fiber);
    _longjmp(fiber.place, 1);
}

template <class... A, size_t... I>
static void apply(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*(A*)values[I]...);
}
template <class... A>
static void apply(void (*kernel)(A...), void** values) {
    apply(kernel, values, std::index_sequence_for<A...>{});
}

// All live threads from `begin` to `end` wait in this state: let them go on
static bool release(int begin, int end, State state) {
    bool any = false;
    for (int t = begin; t < end; t++) {
        if (fibers[t].state != state && fibers[t].state != DONE) return false;
        any |= fibers[t].state == state;
    }
    for (int t = begin; t < end; t++)
        if (fibers[t].state == state) fibers[t].state = READY;
    return any;
}

static int run_block(int n_threads, bool backwards) {
    for (int t = 0; t < n_threads; t++) fibers[t].state = READY;
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < n_threads; i++) {
            const int t = backwards ? n_threads - 1 - i : i;
            if (fibers[t].state != READY) continue;
            any = true;
            running = t;
            threadIdx = {t, 0, 0};
            resume(fibers[t]);
        }
        for (int t = 0; t < n_threads; t += 32)
            any |= release(t, t + 32 < n_threads ? t + 32 : n_threads, AT_WARP);
        any |= release(0, n_threads, AT_BLOCK);
    }
    for (int t = 0; t < n_threads; t++)
        if (fibers[t].state != DONE) return 1;
    return 0;
}

static int run(void (*kernel)(void**), const int* grid, int n_threads, int n_shared, bool backwards,
               void** values) {
    if (n_shared > MOST_SHARED) return 2;
    body = kernel;
    arguments = values;
    if (fibers.empty()) fibers.resize(n_threads);
    if ((int)fibers.size() != n_threads) return 4;
    gridDim = {grid[0], grid[1], 1};
    blockDim = {n_threads, 1, 1};
    for (int i = 0; i < grid[0] * grid[1]; i++) {
        const int block = backwards ? grid[0] * grid[1] - 1 - i : i;
        blockIdx = {block % grid[0], block / grid[0], 0};
        for (float& number : shared) number = std::numeric_limits<float>::quiet_NaN();
        for (int g = 0; g < GUARD; g++) shared[n_shared + g] = 12345.0f;
        if (run_block(n_threads, backwards)) return 1;
        for (int g = 0; g < GUARD; g++)
            if (shared[n_shared + g] != 12345.0f) return 3;
    }
    return 0;
}
"""

_KERNEL = r"""
extern "C" int run_{0}(const int* grid, int n_threads, int n_shared, int backwards,
                       void** values) {{
    return run([](void** v) {{ apply({0}, v); }}, grid, n_threads, n_shared, backwards, values);
}}
"""

_ENTRY_POINT = r'extern "C" __global__ void (?:__launch_bounds__\(\w+\)\s*)?(\w+)'

_ERRORS = {
    1: "threads wait for each other for ever",
    2: "a block asks for too much shared memory",
    3: "a block writes behind its shared memory",
    4: "blocks of several sizes",
}

# Contraction to fused multiply-adds, as on the device, would hide nothing but tie to a machine
_OPTIONS = ["-std=c++17", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w"]


class Emulation:
    """The kernels of one source."""

    backwards = False

    def __init__(self, source):
        names = re.findall(
            r'extern "C" __global__ void (?:__launch_bounds__\(\w+\)\s*)?(\w+)', source
        )
        text = "\n".join([_BEFORE, source, _AFTER, *map(_KERNEL.format, names)])
        directory = Path(tempfile.gettempdir(), "sklearn_lenet_emulated_kernels")
        directory.mkdir(exist_ok=True)
        library = directory / f"{hashlib.sha256(text.encode()).hexdigest()}.so"
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=directory) as temporary:
                code, built = Path(temporary, "kernels.cpp"), Path(temporary, "kernels.so")
                code.write_text(text)
                subprocess.run([COMPILER, *_OPTIONS, str(code), "-o", str(built)], check=True)
                built.replace(library)
        self._library = ctypes.CDLL(str(library))

    @staticmethod
    @cache
    def of(source):
        """Compile a source once."""
        return Emulation(source)

    def launch(self, name, grid, block, arguments, shared_bytes):
        """Run a kernel; `arguments` are NumPy's scalars, addresses as uintp."""
        values = [argument.tobytes() for argument in arguments]
        buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
        pointers = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
        sizes = (ctypes.c_int * 2)(*(*grid, 1)[:2])
        (n_threads,) = block
        error = getattr(self._library, f"run_{name}")(
            sizes, n_threads, shared_bytes // 4, int(self.backwards), pointers
        )
        if error:
            raise RuntimeError(f"{name}: {_ERRORS[error]}")
