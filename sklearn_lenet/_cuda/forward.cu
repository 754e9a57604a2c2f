// What the kernels of prediction and training share: the way of a sample from X to the logits.
// `source.py` puts before this text what depends on the network: the sizes of the layers, where
// they stand in shared memory, and how their work is cut (THREADS, RANKS, struct Conv0, ...).
//
// A block takes a sample through the whole network, and has all of its numbers in shared memory. In
// training, a cluster of RANKS blocks can take it together: each block has all the numbers, computes
// a part of each layer, and writes that to all. Every sum is taken in an order that depends on the
// sizes alone, and there are no atomic operations: the bits are the same on every run.

extern __shared__ float shared[];

constexpr int WARPS = THREADS / WARP;

// Blocks that a multiprocessor has room for: what they use of its registers follows from that
constexpr int BLOCKS = THREADS > 256 ? 1 : 2;

__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int parts(int n, int size) { return (n + size - 1) / size; }
__host__ __device__ constexpr int unrolled(int n) { return n <= 8 ? n : 1; }

// ---------------------------------------------------------------------------------------------
// A cluster: its blocks send numbers to each other, and wait for as many bytes as the others send

#ifdef __CUDACC__
__device__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

__device__ unsigned address_in(int rank, const void* pointer) {
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(pointer)),
        "r"(rank));
    return there;
}

__device__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;"
                 ::: "memory");
}

// To the same place in another block, counted there by a barrier in shared memory
__device__ void send(int rank, float* place, float number, float* barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];"
                 :: "r"(address_in(rank, place)), "f"(number), "r"(address_in(rank, barrier))
                 : "memory");
}
__device__ void send(int rank, float* place, float2 numbers, float* barrier) {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
        :: "r"(address_in(rank, place)), "f"(numbers.x), "f"(numbers.y),
           "r"(address_in(rank, barrier)) : "memory");
}
__device__ void send(int rank, float* place, float4 numbers, float* barrier) {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
        :: "r"(address_in(rank, place)), "f"(numbers.x), "f"(numbers.y), "f"(numbers.z),
           "f"(numbers.w), "r"(address_in(rank, barrier)) : "memory");
}

// By one thread, before the cluster's first barrier
__device__ void make_barrier(float* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;"
                 :: "r"(shared_address(barrier)) : "memory");
}

// Wait for the bytes of a barrier's round: all threads, after one has said how many they are
__device__ void expect(float* barrier, int n_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_address(barrier)), "r"(n_bytes) : "memory");
}
__device__ void wait_for_bytes(float* barrier, int round) {
    unsigned is_over = 0;
    while (!is_over)
        asm volatile(
            "{\n\t.reg .pred over;\n\t"
            "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 over, [%1], %2;\n\t"
            "selp.u32 %0, 1, 0, over;\n\t}"
            : "=r"(is_over) : "r"(shared_address(barrier)), "r"(round & 1) : "memory");
}

// Copy N numbers to shared memory, some time before `wait_for_copies` of this thread is over
template <int N>
__device__ void copy_later(float* to, const float* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                 :: "r"(shared_address(to)), "l"(from), "n"(4 * N) : "memory");
}
__device__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

__device__ int rank_of_block() { return RANKS > 1 ? blockIdx.x % RANKS : 0; }

// Wait until all blocks of the cluster are here
__device__ void meet() {
    if constexpr (RANKS > 1)
        cluster_barrier();
    else
        __syncthreads();
}

// Barriers in shared memory, by the number of what is exchanged; each is used once for each sample
__device__ float* barrier(int number) { return shared + Shared::BARRIERS + 2 * number; }

// Write numbers to this block; with a number of what is exchanged, to all blocks of the cluster
constexpr int NOT_SHARED = -1;
template <int EXCHANGE, class Numbers>
__device__ void store(float* place, Numbers numbers) {
    *reinterpret_cast<Numbers*>(place) = numbers;
    if constexpr (EXCHANGE != NOT_SHARED && RANKS > 1)
        for (int other = 1; other < RANKS; other++)
            send((rank_of_block() + other) % RANKS, place, numbers, barrier(EXCHANGE));
}

// Wait for this block, and for so many numbers from the others
template <int EXCHANGE>
__device__ void exchange(int n_numbers, int round) {
    if constexpr (EXCHANGE != NOT_SHARED && RANKS > 1) {
        if (threadIdx.x == 0) expect(barrier(EXCHANGE), 4 * n_numbers);
        wait_for_bytes(barrier(EXCHANGE), round);
    }
    __syncthreads();
}

// ---------------------------------------------------------------------------------------------
// What a warp shares

__device__ float warp_sum(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

__device__ float warp_max(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// ---------------------------------------------------------------------------------------------
// Loads of several numbers at once, from places that are multiples of their size

template <int N>
__device__ void load_vector(const float* from, float (&to)[N]) {
    if constexpr (N == 4) {
        const float4 vector = *reinterpret_cast<const float4*>(from);
        to[0] = vector.x, to[1] = vector.y, to[2] = vector.z, to[3] = vector.w;
    } else if constexpr (N == 2) {
        const float2 vector = *reinterpret_cast<const float2*>(from);
        to[0] = vector.x, to[1] = vector.y;
    } else {
        for (int i = 0; i < N; i++) to[i] = from[i];
    }
}

// A row of any length; in pairs, where it begins at an even place
template <bool EVEN, int N>
__device__ void load_row(const float* from, float (&to)[N]) {
    constexpr int PAIRED = EVEN ? N / 2 * 2 : 0;
    #pragma unroll
    for (int i = 0; i < PAIRED; i += 2) {
        const float2 pair = *reinterpret_cast<const float2*>(from + i);
        to[i] = pair.x, to[i + 1] = pair.y;
    }
    #pragma unroll
    for (int i = PAIRED; i < N; i++) to[i] = from[i];
}

// And back, to this block or to all
template <bool EVEN, int EXCHANGE, int N>
__device__ void store_row(const float (&from)[N], float* to) {
    constexpr int PAIRED = EVEN ? N / 2 * 2 : 0;
    #pragma unroll
    for (int i = 0; i < PAIRED; i += 2) store<EXCHANGE>(to + i, float2{from[i], from[i + 1]});
    #pragma unroll
    for (int i = PAIRED; i < N; i++) store<EXCHANGE>(to + i, from[i]);
}

// ---------------------------------------------------------------------------------------------
// Activations, and their derivatives from the output

template <int ACTIVATION>
__device__ float activate(float z) {
    if (ACTIVATION == RELU) return z < 0.0f ? 0.0f : z;  // NaN stays
    if (ACTIVATION == TANH) return tanhf(z);
    if (ACTIVATION == SIGMOID) return tanhf(z * 0.5f) * 0.5f + 0.5f;
    return z;
}

template <int ACTIVATION>
__device__ float derivative(float output) {
    if (ACTIVATION == RELU) return output > 0.0f ? 1.0f : 0.0f;
    if (ACTIVATION == TANH) return 1.0f - output * output;
    if (ACTIVATION == SIGMOID) return output * (1.0f - output);
    return 1.0f;
}

// ---------------------------------------------------------------------------------------------
// Lists of layers

template <class... Layers, class Action>
__device__ void for_each(List<Layers...>, Action action) {
    (action(Layers{}), ...);
}

// Sizes that follow from those of a convolution. Maps are its outputs before pooling. A thread
// computes GROUP kernels at once: a group, which one rank has, through all phases.
template <class S>
struct Derived {
    static constexpr int PLACES = S::OUT_H * S::OUT_W;
    static constexpr int MAP_H = S::OUT_H * S::POOL, MAP_W = S::OUT_W * S::POOL;
    static constexpr int GROUPS = parts(S::C_OUT, S::GROUP), OWN_GROUPS = parts(GROUPS, RANKS);
    static constexpr int OWN_KERNELS = OWN_GROUPS * S::GROUP;
    // Weights stand in shared memory as (channel, row, column, group, kernel of the group)
    static constexpr int VECTOR = S::GROUP == 3 ? 4 : S::GROUP, LINE = GROUPS * VECTOR;
    static constexpr int KERNEL = S::C_IN * S::K * S::K;
    // Pixels that a pooling window meets along an axis
    static constexpr int WINDOW = (S::POOL - 1) * S::STRIDE + S::K;

    // A group of this rank, and a kernel, by its number among them
    __device__ static int group(int own) { return own * RANKS + rank_of_block(); }
    __device__ static int kernel(int own) {
        return group(own / S::GROUP) * S::GROUP + own % S::GROUP;
    }
    // Kernels that the other ranks have
    __device__ static int others() {
        int n = S::C_OUT;
        for (int own = 0; own < OWN_KERNELS; own++) n -= kernel(own) < S::C_OUT;
        return n;
    }
};

// ---------------------------------------------------------------------------------------------
// Loading

// Images and maps have margins of zeros, which nobody else writes
__device__ void clear_margins() {
    for (int t = threadIdx.x; t < Shared::CLEARED / 4; t += THREADS)
        reinterpret_cast<float4*>(shared)[t] = {0.0f, 0.0f, 0.0f, 0.0f};
}

template <class S>
__device__ void load_weights(const float* __restrict__ parameters) {
    using D = Derived<S>;
    constexpr int N = S::C_OUT * D::KERNEL;
    #pragma unroll 8
    for (int round = 0; round < parts(N, THREADS); round++) {  // known: its loads are unrolled
        const int t = round * THREADS + threadIdx.x;
        if (t >= N) continue;
        const int o = t % S::C_OUT, place = t / S::C_OUT;
        shared[S::WEIGHTS + place * D::LINE + o / S::GROUP * D::VECTOR + o % S::GROUP] =
            parameters[S::WEIGHT + o * D::KERNEL + place];
    }
}

__device__ void load_biases(const float* __restrict__ parameters) {
    for (int t = threadIdx.x; t < Shared::N_BIASES; t += THREADS)
        shared[Shared::BIASES + t] = parameters[Shared::FIRST_BIAS + t];
}

// A row of X, scaled and laid out as `_images.py` does it, into the first convolution's image
template <class S>
__device__ void load_image(const Pixel* __restrict__ X, long long row, Wide mean, float scale) {
    constexpr int H = Images::H * Images::ZOOM, W = Images::W * Images::ZOOM;
    constexpr int N = Images::C * H * W;
    const Pixel* features = X + row * Images::N_FEATURES;
    #pragma unroll 8
    for (int round = 0; round < parts(N, THREADS); round++) {
        const int t = round * THREADS + threadIdx.x;
        if (t >= N) continue;
        const int x = t % W, y = t / W % H, c = t / (H * W);
        const int feature = (c * Images::H + y / Images::ZOOM) * Images::W + x / Images::ZOOM;
        if (feature < Images::N_FEATURES)
            shared[S::IMAGE + c * S::PLANE + (y + Images::TOP + S::PADDING) * S::PITCH + x +
                   Images::LEFT + S::PADDING] = (float)((Wide)features[feature] - mean) * scale;
    }
}

// ---------------------------------------------------------------------------------------------
// Convolution, activation and pooling

// Activation and pooling of one window, given the sums without the bias
template <class S>
__device__ void pool(int o, int place, const float (&sums)[S::POOL][S::POOL], int sample) {
    constexpr int P = S::POOL;
    const float bias = shared[Shared::BIASES + S::BIAS + o];
    const int X = place % S::OUT_W, Y = place / S::OUT_W;
    float pooled = 0.0f;
    #pragma unroll
    for (int i = 0; i < P; i++) {
        float states[P];
        #pragma unroll
        for (int j = 0; j < P; j++) {
            states[j] = activate<S::ACTIVATION>(sums[i][j] + bias);
            if (!S::MAX_POOLING)
                pooled += states[j];
            else if (i + j == 0 || states[j] > pooled || states[j] != states[j])
                pooled = states[j];
        }
        if (TRAINS)  // all blocks go back through all maps, but for the first convolution's
            store_row<P % 2 == 0, S::IS_FIRST ? NOT_SHARED : S::EXCHANGE>(
                states, shared + S::MAPS + o * S::MAP_PLANE + (Y * P + i) * S::MAP_PITCH +
                            S::MARGIN + X * P);
    }
    store<S::EXCHANGE>(shared + S::OUTPUT + sample * S::OUTPUT_SAMPLE + o * S::OUTPUT_PLANE +
                           Y * S::OUTPUT_PITCH + X,
                       S::MAX_POOLING ? pooled : pooled / (P * P));
}

// A thread: one pooling window, the kernels of one group, one of SPLITS parts of the channels, which
// neighbouring lanes have
template <class S>
__device__ void conv_forward(int sample, int round) {
    using D = Derived<S>;
    constexpr int P = S::POOL, CHANNELS = parts(S::C_IN, S::SPLITS);
    constexpr int TASKS = D::PLACES * D::OWN_GROUPS * S::SPLITS;
    for (int t = threadIdx.x; t < parts(TASKS, WARP) * WARP; t += THREADS) {
        const int split = t % S::SPLITS, place = t / S::SPLITS % D::PLACES;
        const int group = D::group(t / (S::SPLITS * D::PLACES));
        const bool exists = t < TASKS && group < D::GROUPS;
        const int X = place % S::OUT_W, Y = place / S::OUT_W;
        const float* corner = shared + S::IMAGE + (Y * S::PITCH + X) * P * S::STRIDE;
        const float* weight = shared + S::WEIGHTS + (exists ? group : 0) * D::VECTOR;
        float sums[S::GROUP][P][P];
        for (int k = 0; k < S::GROUP; k++)
            for (int i = 0; i < P * P; i++) sums[k][i / P][i % P] = 0.0f;
        for (int c = split * CHANNELS; c < smaller((split + 1) * CHANNELS, S::C_IN); c++)
            #pragma unroll unrolled(D::WINDOW)
            for (int r = 0; r < D::WINDOW; r++) {
                float row[D::WINDOW];
                load_row<P * S::STRIDE % 2 == 0>(corner + c * S::PLANE + r * S::PITCH, row);
                #pragma unroll
                for (int i = 0; i < P; i++) {
                    const int u = r - i * S::STRIDE;
                    if (u < 0 || u >= S::K) continue;
                    #pragma unroll
                    for (int v = 0; v < S::K; v++) {
                        float w[D::VECTOR];
                        load_vector(weight + ((c * S::K + u) * S::K + v) * D::LINE, w);
                        #pragma unroll
                        for (int k = 0; k < S::GROUP; k++)
                            #pragma unroll
                            for (int j = 0; j < P; j++)
                                sums[k][i][j] += w[k] * row[j * S::STRIDE + v];
                    }
                }
            }
        #pragma unroll
        for (int k = 0; k < S::GROUP; k++) {
            #pragma unroll
            for (int i = 0; i < P * P; i++)
                for (int distance = S::SPLITS / 2; distance > 0; distance /= 2)
                    sums[k][i / P][i % P] +=
                        __shfl_xor_sync(0xffffffffu, sums[k][i / P][i % P], distance);
            const int o = group * S::GROUP + k;
            if (exists && o < S::C_OUT && k % S::SPLITS == split)
                pool<S>(o, place, sums[k], sample);
        }
    }
    if constexpr (S::IS_LAST && Shared::KEEPS_WEIGHTS) wait_for_copies();
    const int n_of_window = S::IS_FIRST ? 1 : 1 + P * P;  // with the states
    exchange<S::EXCHANGE>(n_of_window * D::PLACES * D::others(), round);
}

// ---------------------------------------------------------------------------------------------
// Dense layers, on SAMPLES samples at once

// The outputs that a rank has: all, of a small layer
template <class L>
struct OwnOutputs {
    static constexpr bool ARE_SHARED = L::EXCHANGE != NOT_SHARED;
    static constexpr int N = ARE_SHARED ? parts(L::OUT, RANKS) : L::OUT;

    __device__ static int begin() {
        return ARE_SHARED ? smaller(rank_of_block() * N, L::OUT) : 0;
    }
    __device__ static int end() { return smaller(begin() + N, L::OUT); }

    // Their rows of the weights: in shared memory where there is room for them
    __device__ static const float* weight(const float* parameters) {
        return L::IS_KEPT ? shared + L::WEIGHTS : parameters + L::WEIGHT + begin() * L::IN;
    }
    __device__ static void keep(const float* __restrict__ parameters) {
        const float* from = parameters + L::WEIGHT + begin() * L::IN;
        const int n = (end() - begin()) * L::IN;
        if constexpr (L::IS_KEPT)
            for (int t = threadIdx.x * L::VECTOR; t < n; t += THREADS * L::VECTOR)
                copy_later<L::VECTOR>(shared + L::WEIGHTS + t, from + t);
    }
};

// output = activation(weight @ input + bias): a warp for ROWS outputs
template <class L>
__device__ void dense_forward(const float* __restrict__ parameters, int round) {
    using Own = OwnOutputs<L>;
    constexpr int V = L::VECTOR, ROUNDS = parts(L::IN, WARP * V);
    // As many loads at once as there is room for
    constexpr int ROWS =
        smaller(larger(16 / (ROUNDS * larger(SAMPLES / 2, 1)), 1), parts(Own::N, WARPS));
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int begin = Own::begin(), end = Own::end();
    const float* weight = Own::weight(parameters);
    for (int o = begin + warp * ROWS; o < end; o += WARPS * ROWS) {
        float sums[ROWS][SAMPLES];
        for (int r = 0; r < ROWS; r++)
            for (int s = 0; s < SAMPLES; s++) sums[r][s] = 0.0f;
        #pragma unroll unrolled(ROUNDS)
        for (int part = 0; part < ROUNDS; part++) {
            const int i = (part * WARP + lane) * V;
            if (i >= L::IN) continue;
            float w[ROWS][V];
            #pragma unroll
            for (int r = 0; r < ROWS; r++)  // rows beyond the end are computed, and thrown away
                load_vector(weight + (smaller(o + r, end - 1) - begin) * L::IN + i, w[r]);
            #pragma unroll
            for (int s = 0; s < SAMPLES; s++) {
                float x[V];
                load_vector(shared + L::INPUT + s * L::IN + i, x);
                #pragma unroll
                for (int r = 0; r < ROWS; r++)
                    #pragma unroll
                    for (int k = 0; k < V; k++) sums[r][s] += w[r][k] * x[k];
            }
        }
        #pragma unroll
        for (int r = 0; r < ROWS; r++)
            #pragma unroll
            for (int s = 0; s < SAMPLES; s++) {
                const float sum = warp_sum(sums[r][s]);
                if (lane != 0 || o + r >= end) continue;
                const float z = sum + shared[Shared::BIASES + L::BIAS + o + r];
                store<L::EXCHANGE>(shared + L::OUTPUT + s * L::OUT + o + r,
                                   activate<L::ACTIVATION>(z));
            }
    }
    exchange<L::EXCHANGE>(L::OUT - (end - begin), round);
}
