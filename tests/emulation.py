"""CUDA kernels on the host: their very source, compiled by g++, with a fiber for each thread.

One fiber runs at a time, until it has to wait: at a shuffle for its warp, at a barrier for its
block or its cluster. A warp then goes on as long as it can before the next warp has its turn, and
so do the blocks of a cluster; clusters run one after the other. Turns are first to last or last to
first: kernels whose results depend on that have a race.

Shared memory is NaN before its block begins and after its block has ended, and what lies behind it
must stay as it was. What a lane that has ended gives to a shuffle is NaN.
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
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)

struct Dim { int x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
static float* shared;

namespace emulated {

enum Error { NONE, DEADLOCK, SHARED_SIZE, WRITTEN_BEHIND, CLUSTER, THREADS, MISALIGNED, PLACE };
enum Wait { FOR_WARP, FOR_BLOCK, FOR_CLUSTER, FOR_BYTES, FOR_NOTHING };  // the last: has ended

constexpr int MOST_SHARED = 227 * 1024 / 4, GUARD = 64, MOST_BLOCKS = 16, LANES = 32;

struct Warp {
    int first;                      // thread
    unsigned all, ready, waits[5];  // bits for lanes
    void** places[LANES];           // where they go on
    float sent[LANES], received[LANES];
};
struct Block {
    Warp *begin, *end;
    int x, n_begun, n_ended;
    float* memory;
    bool has_news;  // for threads that wait for bytes
};

static int n_shared, n_blocks;  // blocks of a cluster
static Block blocks[MOST_BLOCKS];
static Block* block;  // this and the next two: whose turn it is
static Warp* warp;
static int lane;
static bool backwards;
static Error error;
static void* launcher[5];  // where the launch goes on

static void enter(Block* next) {
    block = next;
    warp = block->begin;
    blockIdx.x = block->x;
    shared = block->memory;
}

// If all threads that have not ended wait for this, let them go on
static inline bool release(Warp* begin, Warp* end, Wait wait) {
    bool any = false;
    for (Warp* w = begin; w != end; w++) {
        if ((w->waits[wait] | w->waits[FOR_NOTHING]) != w->all) return false;
        any |= w->waits[wait] != 0;
    }
    for (Warp* w = begin; any && w != end; w++) {
        w->ready = w->waits[wait];
        w->waits[wait] = 0;
    }
    return any;
}

// Let threads that wait for bytes look whether they have come
static bool look_again(Block* b) {
    bool any = false;
    for (Warp* w = b->begin; b->has_news && w != b->end; w++) {
        any |= w->waits[FOR_BYTES] != 0;
        w->ready |= w->waits[FOR_BYTES];
        w->waits[FOR_BYTES] = 0;
    }
    b->has_news = false;
    return any;
}

// Go to a block that has something to look at, if there is one
static bool follow_news() {
    for (Block* b = blocks; b != blocks + n_blocks; b++)
        if (look_again(b)) {
            enter(b);
            return true;
        }
    return false;
}

// Give the turn to the next thread, or to the launch if there is none; returns where it goes on
static void** give_turn() {
    while (!warp->ready) {
        if (release(warp, warp + 1, FOR_WARP)) {
            std::memcpy(warp->received, warp->sent, sizeof warp->sent);
            std::memset(warp->sent, 0xff, sizeof warp->sent);
        } else if (warp + 1 != block->end)
            warp++;
        else if (release(block->begin, block->end, FOR_BLOCK))
            warp = block->begin;
        else if (block + 1 != blocks + n_blocks)
            enter(block + 1);
        else if (follow_news())
            continue;
        else if (release(blocks->begin, block->end, FOR_CLUSTER))
            enter(blocks);
        else
            return launcher;
    }
    lane = backwards ? 31 - __builtin_clz(warp->ready) : __builtin_ctz(warp->ready);
    warp->ready &= ~(1u << lane);
    threadIdx.x = warp->first + lane;
    return warp->places[lane];
}

// The compiler's own setjmp and longjmp are much faster than the library's.
// noipa: for the compiler, this may change any memory.
static __attribute__((noipa)) void wait_for(Wait wait) {
    void* place[5];
    warp->places[lane] = place;
    warp->waits[wait] |= 1u << lane;
    if (!__builtin_setjmp(place)) __builtin_longjmp(give_turn(), 1);
}

[[noreturn]] static __attribute__((noipa)) void fail(Error e) {
    error = e;
    __builtin_longjmp(launcher, 1);
}

template <int BYTES>
__forceinline__ void check_alignment(const void* pointer) {
    std::uintptr_t address = (std::uintptr_t)pointer;
    asm("" : "+r"(address));  // or the compiler might take it from the type
    if (address % BYTES) fail(MISALIGNED);
}

}  // namespace emulated

static void __syncthreads() { emulated::wait_for(emulated::FOR_BLOCK); }

// Copies are made as late as they may be: when their thread waits for them
struct Copy { void *to; const void* from; size_t n; };
static std::vector<Copy> copies[emulated::MOST_BLOCKS][1024];
template <int N>
static void copy_later(float* to, const float* from) {
    emulated::check_alignment<4 * N>(to);
    emulated::check_alignment<4 * N>(from);
    copies[emulated::block - emulated::blocks][threadIdx.x].push_back({to, from, 4 * N});
}
static void wait_for_copies() {
    auto& mine = copies[emulated::block - emulated::blocks][threadIdx.x];
    for (const Copy& copy : mine) std::memcpy(copy.to, copy.from, copy.n);
    mine.clear();
}

static void __syncwarp() { emulated::wait_for(emulated::FOR_WARP); }

static void cluster_barrier() { emulated::wait_for(emulated::FOR_CLUSTER); }

static emulated::Block* block_of(int rank) {
    using namespace emulated;
    if (rank < 0 || rank >= n_blocks) fail(PLACE);
    return blocks + (backwards ? n_blocks - 1 - rank : rank);
}

static float* shared_of(float* pointer, int rank) {
    const std::ptrdiff_t place = pointer - shared;
    if (place < 0 || place > emulated::n_shared) emulated::fail(emulated::PLACE);
    return block_of(rank)->memory + place;
}

// A round is over when a thread has said how many bytes it expects, and they are here
struct Barrier {
    int bytes;
    short rounds;
    bool is_expected;

    void settle(emulated::Block* block) {
        if (!is_expected || bytes != 0) return;
        rounds++;
        is_expected = false;
        block->has_news = true;
    }
};
static void make_barrier(float* barrier) { *(Barrier*)barrier = {0, 0, false}; }
template <class Numbers>
static void send(int rank, float* place, Numbers numbers, float* barrier) {
    *(Numbers*)shared_of(place, rank) = numbers;
    Barrier* there = (Barrier*)shared_of(barrier, rank);
    there->bytes += sizeof numbers;
    there->settle(block_of(rank));
}
static void expect(float* barrier, int n_bytes) {
    Barrier* here = (Barrier*)barrier;
    here->bytes -= n_bytes;
    here->is_expected = true;
    here->settle(emulated::block);
}
static void wait_for_bytes(float* barrier, int round) {
    while ((((Barrier*)barrier)->rounds & 1) == (round & 1))
        emulated::wait_for(emulated::FOR_BYTES);
}

static float __shfl_xor_sync(unsigned, float x, int distance) {
    using namespace emulated;
    warp->sent[lane] = x;
    wait_for(FOR_WARP);
    return warp->received[lane ^ distance];
}

struct alignas(8) float2 {
    float x, y;
    float2() = default;
    __forceinline__ float2(float x, float y) : x(x), y(y) {}
    __forceinline__ float2(const float2& other) { *this = other; }
    __forceinline__ float2& operator=(const float2& other) {
        emulated::check_alignment<8>(this), emulated::check_alignment<8>(&other);
        x = other.x, y = other.y;
        return *this;
    }
};
struct alignas(16) float4 {
    float x, y, z, w;
    float4() = default;
    __forceinline__ float4(float x, float y, float z, float w) : x(x), y(y), z(z), w(w) {}
    __forceinline__ float4(const float4& other) { *this = other; }
    __forceinline__ float4& operator=(const float4& other) {
        emulated::check_alignment<16>(this), emulated::check_alignment<16>(&other);
        x = other.x, y = other.y, z = other.z, w = other.w;
        return *this;
    }
};
"""

_AFTER = r"""
namespace emulated {

constexpr int MOST_WARPS = 32;  // of a block
constexpr int STACK = 32 * 1024 + 192;  // no power of two, which would crowd a part of the cache
constexpr float MARK = 12345.0f;

alignas(16) static float memory[MOST_BLOCKS][MOST_SHARED + GUARD];
static Warp warps[MOST_BLOCKS * MOST_WARPS];
static int n_started;  // warps, from the first on
static std::vector<char*> stacks;  // of warps

static void (*body)(void**);
static void** arguments;

static void poison() {
    std::memset(shared, 0xff, n_shared * sizeof(float));  // NaN
    for (int g = 0; g < GUARD; g++) shared[n_shared + g] = MARK;
}

static void run_thread() {
    for (;;) {
        wait_for(FOR_NOTHING);
        if (block->n_begun++ == 0) poison();
        body(arguments);
        if (++block->n_ended < blockDim.x) continue;
        for (int g = 0; g < GUARD; g++)
            if (shared[n_shared + g] != MARK) fail(WRITTEN_BEHIND);
        poison();
    }
}

// Have the fibers of one more warp wait for their first turn
static __attribute__((noipa)) void start_warp() {
    if ((int)stacks.size() == n_started) stacks.emplace_back(new char[LANES * STACK]);
    warp = warps + n_started;
    warp->all = warp->ready = 0;
    blocks[0] = {warp, warp + 1};
    block = blocks;
    n_blocks = 1;
    for (lane = 0; lane < LANES; lane++) {
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks[n_started] + lane * STACK;
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, run_thread, 0);
        if (!__builtin_setjmp(launcher)) setcontext(&context);
    }
    n_started++;
}

static __attribute__((noipa)) void run_cluster() {
    if (!__builtin_setjmp(launcher)) {
        enter(blocks);
        __builtin_longjmp(give_turn(), 1);
    }
}

static Error run(void (*kernel)(void**), const int* grid, int n_threads, int cluster,
                 void** values) {
    if (n_shared > MOST_SHARED) return SHARED_SIZE;
    if (cluster > MOST_BLOCKS || grid[0] % cluster) return CLUSTER;
    if (n_threads > LANES * MOST_WARPS) return THREADS;
    const int n_warps = (n_threads + LANES - 1) / LANES;
    while (n_started < n_warps * cluster) start_warp();
    body = kernel;
    arguments = values;
    gridDim = {grid[0], grid[1], 1};
    blockDim = {n_threads, 1, 1};
    n_blocks = cluster;
    error = NONE;
    const int n_clusters = grid[0] / cluster * grid[1];
    for (int i = 0; i < n_clusters; i++) {
        const int first = (backwards ? n_clusters - 1 - i : i) * cluster;
        blockIdx.y = first / grid[0];
        for (int b = 0; b < cluster; b++) {
            const int rank = backwards ? cluster - 1 - b : b;
            Warp* begin = warps + b * n_warps;
            blocks[b] = {begin, begin + n_warps, first % grid[0] + rank, 0, 0, memory[rank]};
            for (int w = 0; w < n_warps; w++) {
                Warp& warp = begin[w];
                warp.first = (backwards ? n_warps - 1 - w : w) * LANES;
                const int size = n_threads - warp.first;
                warp.all = warp.ready = size < LANES ? (1u << size) - 1 : ~0u;
                std::memset(warp.waits, 0, sizeof warp.waits);
                std::memset(warp.sent, 0xff, sizeof warp.sent);
            }
        }
        run_cluster();
        for (int b = 0; b < cluster && !error; b++)
            if (blocks[b].n_ended != n_threads) error = DEADLOCK;
        if (error) {
            n_started = 0;  // fibers have stopped somewhere
            return error;
        }
    }
    return NONE;
}

template <class... A, size_t... I>
static void apply(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*(A*)values[I]...);
}
template <class... A>
static void apply(void (*kernel)(A...), void** values) {
    apply(kernel, values, std::index_sequence_for<A...>{});
}

}  // namespace emulated
"""

_ENTRY_POINT = r"""
extern "C" int run_{name}(const int* grid, int n_threads, int shared_size, int last_to_first,
                          void** values) {{
    emulated::n_shared = shared_size;
    emulated::backwards = last_to_first;
    return emulated::run([](void** v) {{ emulated::apply({name}, v); }}, grid, n_threads,
                         {cluster}, values);
}}
"""

_SHARED = "extern __shared__ float shared[];"
_KERNEL = re.compile(
    r'extern "C" __global__ void\s+'
    r"(?:__cluster_dims__\((\w+), 1, 1\)\s*)?(?:__launch_bounds__\([^()]*\)\s*)?(\w+)\("
)

_ERRORS = {
    1: "threads wait for each other for ever",
    2: "a block asks for too much shared memory",
    3: "a block writes behind its shared memory",
    4: "the grid is no whole number of clusters, or a cluster has too many blocks",
    5: "a block has too many threads",
    6: "a vector's address is no multiple of its size",
    7: "shared_of a place or a rank that there is not",
}

# Contraction to fused multiply-adds, as on the device, would hide nothing but tie to a machine
_OPTIONS = ["-std=c++17", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w"]


class Emulation:
    """The kernels of one source."""

    backwards = False

    def __init__(self, source):
        entry_points = [
            _ENTRY_POINT.format(name=name, cluster=cluster or 1)
            for cluster, name in _KERNEL.findall(source)
        ]
        text = "\n".join([_BEFORE, source.replace(_SHARED, ""), _AFTER, *entry_points])
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
