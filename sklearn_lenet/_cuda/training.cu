// The kernels of a training step, behind `forward.cu`: "gradients" takes each sample forward and
// back, "update" adds up the gradients of the samples and takes the optimizer's step.

// What changes from step to step, worked out on the host
struct Schedule {
    float total;         // of the mini-batch's sample weights, the largest being 1
    float penalty;       // alpha / sum of the sample weights
    float rate;          // factor of the change
    float epsilon;       // Adam's
    float keep;          // 1 - lr * decay, AdamW's
    float average_rate;  // 1 - decay of the average
};

// ---------------------------------------------------------------------------------------------
// Loss

// The formulas of `_loss.py`, by one warp. First, the logits turn into logarithms of probabilities.
__device__ void log_softmax() {
    constexpr int CLASSES = Shared::CLASSES;
    const int lane = threadIdx.x % WARP;
    float* logits = shared + Shared::LOGITS;
    float largest = -3.402823466e+38f, sum = 0.0f;
    for (int k = lane; k < CLASSES; k += WARP) largest = fmaxf(largest, logits[k]);
    largest = warp_max(largest);
    for (int k = lane; k < CLASSES; k += WARP) sum += expf(logits[k] - largest);
    const float log_sum = logf(warp_sum(sum));
    for (int k = lane; k < CLASSES; k += WARP) logits[k] = logits[k] - largest - log_sum;
}

// These turn into the gradient with respect to the logits; the lanes get parts of the sample's loss.
__device__ float cross_entropy(int label, float share, float smoothing) {
    constexpr int CLASSES = Shared::CLASSES;
    constexpr float EVENLY = 1.0f / CLASSES;
    float* log_proba = shared + Shared::LOGITS;
    float loss = 0.0f;
    for (int k = threadIdx.x % WARP; k < CLASSES; k += WARP) {
        const float value = log_proba[k];
        const float target = smoothing * EVENLY + (k == label ? 1.0f - smoothing : 0.0f);
        loss -= target * value;
        log_proba[k] = share * (expf(value) - target);
    }
    return share * loss;
}

// ---------------------------------------------------------------------------------------------
// Dense layers

// input_grad = weight.T @ output_grad, times the derivative of the activation that made the input.
// A thread: VECTOR inputs, one of SPLITS parts of the outputs that a rank has. The parts' sums come
// together in the scratch memory of all blocks.
template <class L>
__device__ void dense_input_gradient(const float* __restrict__ parameters, int round) {
    using Own = OwnOutputs<L>;
    constexpr int V = L::VECTOR, VECTORS = L::IN / V, SPLITS = L::SPLITS;
    constexpr int SUMMED = Own::ARE_SHARED ? RANKS * SPLITS : SPLITS;
    const int n_own = Own::end() - Own::begin();
    const float* output_grad = shared + L::OUTPUT_GRAD + Own::begin();
    const float* weight = Own::weight(parameters);
    float* scratch = shared + L::SCRATCH;
    for (int t = threadIdx.x; t < VECTORS * SPLITS; t += THREADS) {
        const int i = t % VECTORS * V, split = t / VECTORS;
        float sums[V];
        for (int k = 0; k < V; k++) sums[k] = 0.0f;
        #pragma unroll 16
        for (int e = 0; e < parts(Own::N, SPLITS); e++) {
            const int o = split + e * SPLITS;
            if (o >= n_own) continue;
            float w[V];
            load_vector(weight + o * L::IN + i, w);
            for (int k = 0; k < V; k++) sums[k] += w[k] * output_grad[o];
        }
        float* place = scratch + split * L::IN + i;
        if (Own::ARE_SHARED) place += rank_of_block() * SPLITS * L::IN;
        if constexpr (V == 4)
            store<L::EXCHANGE_BACK>(place, float4{sums[0], sums[1], sums[2], sums[3]});
        else
            for (int k = 0; k < V; k++) store<L::EXCHANGE_BACK>(place + k, sums[k]);
    }
    exchange<L::EXCHANGE_BACK>((SUMMED - SPLITS) * L::IN, round);
    for (int t = threadIdx.x; t < L::IN; t += THREADS) {
        float sum = 0.0f;
        #pragma unroll
        for (int part = 0; part < SUMMED; part++) sum += scratch[part * L::IN + t];
        shared[L::INPUT_GRAD + t] = sum * derivative<L::INPUT_ACTIVATION>(shared[L::INPUT + t]);
    }
    __syncthreads();
}

// What "update" needs to know of a sample: each layer's input and output gradient, in a row
template <class L>
__device__ void store_dense(float* states, float* grads) {
    for (int t = threadIdx.x; t < L::IN; t += THREADS)
        states[L::STATE + t] = shared[L::INPUT + t];
    for (int t = threadIdx.x; t < L::OUT; t += THREADS)
        grads[L::GRAD + t] = shared[L::OUTPUT_GRAD + t];
}

// ---------------------------------------------------------------------------------------------
// Convolution, activation and pooling

// The maps turn into the gradient with respect to them before the activation: all that the input's
// gradient needs, of the first convolution those of this rank. A thread: one pooling window.
template <class S>
__device__ void maps_gradient() {
    using D = Derived<S>;
    constexpr int P = S::POOL, KERNELS = S::IS_FIRST ? D::OWN_KERNELS : S::C_OUT;
    for (int t = threadIdx.x; t < D::PLACES * KERNELS; t += THREADS) {
        const int place = t % D::PLACES;
        const int o = S::IS_FIRST ? D::kernel(t / D::PLACES) : t / D::PLACES;
        if (o >= S::C_OUT) continue;
        float* window = shared + S::MAPS + o * S::MAP_PLANE + S::MARGIN +
                        place / S::OUT_W * P * S::MAP_PITCH + place % S::OUT_W * P;
        const float output_grad = shared[S::OUTPUT_GRAD + o * D::PLACES + place];
        float rows[P][P], largest = 0.0f;
        #pragma unroll
        for (int i = 0; i < P; i++) load_row<P % 2 == 0>(window + i * S::MAP_PITCH, rows[i]);
        if (S::MAX_POOLING)
            for (int i = 0; i < P * P; i++)
                largest = i == 0 ? rows[0][0] : fmaxf(largest, rows[i / P][i % P]);
        bool is_given = false;  // to the first maximum
        #pragma unroll
        for (int i = 0; i < P; i++) {
            #pragma unroll
            for (int j = 0; j < P; j++) {
                const bool is_maximum = !is_given && rows[i][j] == largest;
                if (S::MAX_POOLING) is_given |= is_maximum;
                const float part = S::MAX_POOLING ? (is_maximum ? 1.0f : 0.0f) : 1.0f / (P * P);
                rows[i][j] = derivative<S::ACTIVATION>(rows[i][j]) * output_grad * part;
            }
            store_row<P % 2 == 0, NOT_SHARED>(rows[i], window + i * S::MAP_PITCH);
        }
    }
    __syncthreads();
}

// Sums of arrays over lanes DISTANCE, DISTANCE / 2, ... 1 apart: at each step a lane gives away one
// half of its sums, and keeps the other. `begin` and `n` say what it has in the end.
template <int DISTANCE, int N>
__device__ void sum_over_lanes(float (&sums)[N], int& begin, int& n, float* to) {
    if constexpr (DISTANCE == 0) {
        for (int i = 0; i < N; i++)
            if (i < n) to[begin + i] = sums[i];
    } else {
        constexpr int HALF = (N + 1) / 2;
        const bool upper = threadIdx.x & DISTANCE;
        float half[HALF];
        #pragma unroll
        for (int i = 0; i < HALF; i++) {
            const float low = sums[i], high = i + HALF < N ? sums[(i + HALF) % N] : 0.0f;
            half[i] = (upper ? high : low) +
                      __shfl_xor_sync(0xffffffffu, upper ? low : high, DISTANCE);
        }
        begin += upper ? HALF : 0;
        n = upper ? larger(n - HALF, 0) : smaller(n, HALF);
        sum_over_lanes<DISTANCE / 2>(half, begin, n, to);
    }
}

// The gradient with respect to a convolution's input: of the channels that are this rank's kernels of
// the convolution before, which are all that a rank needs if that is the first. A warp: a row of
// pixels; its lanes: kernels, and tiles of TILE pixels; a thread: those pixels in CHANNELS channels.
template <class S, class Before>
__device__ void conv_input_gradient() {
    using D = Derived<S>;
    using Own = Derived<Before>;
    constexpr int TILES = parts(S::W, S::TILE), TILES_OF_WARP = WARP / S::LANES;
    constexpr int CHUNKS = parts(Own::OWN_KERNELS, S::CHANNELS);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int task = warp; task < S::H * CHUNKS * parts(TILES, TILES_OF_WARP); task += WARPS) {
        const int y = task % S::H, rest = task / S::H;
        const int first_channel = rest % CHUNKS * S::CHANNELS;
        const int first_tile = rest / CHUNKS * TILES_OF_WARP;
        const int x = smaller(first_tile + lane / S::LANES, TILES - 1) * S::TILE;
        float sums[S::CHANNELS * S::TILE];
        for (int i = 0; i < S::CHANNELS * S::TILE; i++) sums[i] = 0.0f;
        for (int o = lane % S::LANES; o < S::C_OUT; o += S::LANES) {
            const float* map = shared + S::MAPS + o * S::MAP_PLANE + S::MARGIN + S::PADDING + x;
            const float* weight = shared + S::WEIGHTS + o / S::GROUP * D::VECTOR + o % S::GROUP;
            // Only rows of the map that exist
            for (int u = larger(0, y + S::PADDING - D::MAP_H + 1);
                 u <= smaller(S::K - 1, y + S::PADDING); u++) {
                float row[S::TILE + S::K - 1];
                load_row<false>(map + (y + S::PADDING - u) * S::MAP_PITCH - (S::K - 1), row);
                #pragma unroll
                for (int k = 0; k < S::CHANNELS; k++) {
                    // Channels beyond the last are computed as the last, and thrown away
                    const int c = smaller(Own::kernel(first_channel + k), S::C_IN - 1);
                    #pragma unroll
                    for (int v = 0; v < S::K; v++) {
                        const float w = weight[((c * S::K + u) * S::K + v) * D::LINE];
                        #pragma unroll
                        for (int i = 0; i < S::TILE; i++)
                            sums[k * S::TILE + i] += w * row[i + S::K - 1 - v];
                    }
                }
            }
        }
        // Through shared memory of the warp's own, to their places
        float* of_warp = shared + Shared::SCRATCH +
                         warp * S::CHANNELS * S::TILE * TILES_OF_WARP;
        int begin = 0, n = S::CHANNELS * S::TILE;
        sum_over_lanes<S::LANES / 2>(
            sums, begin, n, of_warp + lane / S::LANES * S::CHANNELS * S::TILE);
        __syncwarp();
        for (int t = lane; t < S::CHANNELS * S::TILE * TILES_OF_WARP; t += WARP) {
            const int own = first_channel + t / S::TILE % S::CHANNELS, c = Own::kernel(own);
            const int tile = first_tile + t / (S::CHANNELS * S::TILE);
            const int column = tile * S::TILE + t % S::TILE;
            if (own < Own::OWN_KERNELS && c < S::C_IN && column < S::W)
                store<S::EXCHANGE_BACK>(
                    shared + S::INPUT_GRAD + (c * S::H + y) * S::W + column, of_warp[t]);
        }
        __syncwarp();
    }
}

// The same for strides: a thread for each pixel
template <class S, class Before>
__device__ void strided_input_gradient() {
    using D = Derived<S>;
    using Own = Derived<Before>;
    for (int t = threadIdx.x; t < Own::OWN_KERNELS * S::H * S::W; t += THREADS) {
        const int x = t % S::W, y = t / S::W % S::H, c = Own::kernel(t / (S::H * S::W));
        if (c >= S::C_IN) continue;
        float sum = 0.0f;
        for (int u = (y + S::PADDING) % S::STRIDE; u < S::K; u += S::STRIDE) {
            const int Y = (y + S::PADDING - u) / S::STRIDE;
            if (y + S::PADDING < u || Y >= D::MAP_H) continue;
            for (int v = (x + S::PADDING) % S::STRIDE; v < S::K; v += S::STRIDE) {
                const int X = (x + S::PADDING - v) / S::STRIDE;
                if (x + S::PADDING < v || X >= D::MAP_W) continue;
                const float* weight =
                    shared + S::WEIGHTS + ((c * S::K + u) * S::K + v) * D::LINE;
                for (int o = 0; o < S::C_OUT; o++)
                    sum += weight[o / S::GROUP * D::VECTOR + o % S::GROUP] *
                           shared[S::MAPS + o * S::MAP_PLANE + Y * S::MAP_PITCH + S::MARGIN + X];
            }
        }
        store<S::EXCHANGE_BACK>(shared + S::INPUT_GRAD + (c * S::H + y) * S::W + x, sum);
    }
}

// The gradient with respect to weights: each thread's sums over some rows of the maps, and where
// they stand in the scratch memory. A warp: a group of kernels; its lanes: rows of kernels (pairs of
// a channel and a row), and SPLITS_OF_WARP parts of the maps' rows.
template <class S>
struct WeightGradient {
    using D = Derived<S>;
    static constexpr int PAIRS = S::C_IN * S::K;
    static constexpr int SPLITS_OF_WARP = larger(WARP / PAIRS, 1);
    static constexpr int CHUNKS = parts(PAIRS, WARP);
    static constexpr int SPLITS = SPLITS_OF_WARP * S::ROW_SPLITS;
    static constexpr int SUMS = D::OWN_KERNELS * D::KERNEL;
    static constexpr int TASKS = D::OWN_GROUPS * CHUNKS * S::ROW_SPLITS;
    // Rows of maps begin at even places
    static constexpr bool PAIRED = S::COLUMNS % 2 == 0;

    __device__ static void sum_rows() {
        // The last warps first: the first have had more to do with the input's gradient
        const int lane = threadIdx.x % WARP, warp = WARPS - 1 - threadIdx.x / WARP;
        for (int task = warp; task < TASKS; task += WARPS) {
            const int row_split = task % S::ROW_SPLITS, chunk = task / S::ROW_SPLITS % CHUNKS;
            const int own = task / (S::ROW_SPLITS * CHUNKS), group = D::group(own);
            const int pair = CHUNKS > 1 ? chunk * WARP + lane : lane % PAIRS;
            const int split = row_split * SPLITS_OF_WARP + (CHUNKS > 1 ? 0 : lane / PAIRS);
            if (group >= D::GROUPS || pair >= PAIRS || split >= SPLITS ||
                (CHUNKS == 1 && lane >= PAIRS * SPLITS_OF_WARP))
                continue;
            const float* image =
                shared + S::IMAGE + pair / S::K * S::PLANE + pair % S::K * S::PITCH;
            const float* map = shared + S::MAPS + S::MARGIN;
            float sums[S::GROUP][S::K];
            for (int k = 0; k < S::GROUP; k++)
                for (int v = 0; v < S::K; v++) sums[k][v] = 0.0f;
            for (int y = split; y < D::MAP_H; y += SPLITS)
                for (int x = 0; x < D::MAP_W; x += S::COLUMNS) {
                    float pixels[(S::COLUMNS - 1) * S::STRIDE + S::K];
                    load_row<PAIRED>(image + (y * S::PITCH + x) * S::STRIDE, pixels);
                    #pragma unroll
                    for (int k = 0; k < S::GROUP; k++) {
                        const int o = smaller(group * S::GROUP + k, S::C_OUT - 1);
                        float grads[S::COLUMNS];
                        load_row<PAIRED>(map + o * S::MAP_PLANE + y * S::MAP_PITCH + x, grads);
                        #pragma unroll
                        for (int i = 0; i < S::COLUMNS; i++)
                            #pragma unroll
                            for (int v = 0; v < S::K; v++)
                                sums[k][v] += grads[i] * pixels[i * S::STRIDE + v];
                    }
                }
            for (int k = 0; k < S::GROUP; k++)
                for (int v = 0; v < S::K; v++)
                    shared[S::SCRATCH + split * SUMS + (own * S::GROUP + k) * D::KERNEL + pair * S::K +
                           v] = sums[k][v];
        }
    }

    // Add the parts up, into a row of `partials`: the first sample overwrites it
    __device__ static void sum_splits(float* partial, bool is_first) {
        for (int t = threadIdx.x; t < SUMS; t += THREADS) {
            const int o = D::kernel(t / D::KERNEL);
            if (o >= S::C_OUT) continue;
            float sum = 0.0f;
            #pragma unroll 8
            for (int split = 0; split < SPLITS; split++)
                sum += shared[S::SCRATCH + split * SUMS + t];
            float* place = partial + S::WEIGHT + o * D::KERNEL + t % D::KERNEL;
            *place = is_first ? sum : *place + sum;
        }
        // The biases: a warp for each, the last first, since few sums leave them without work
        const int lane = threadIdx.x % WARP;
        for (int own = WARPS - 1 - threadIdx.x / WARP; own < D::OWN_KERNELS; own += WARPS) {
            const int o = D::kernel(own);
            if (o >= S::C_OUT) continue;
            float sum = 0.0f;
            for (int t = lane; t < D::MAP_H * D::MAP_W; t += WARP)
                sum += shared[S::MAPS + o * S::MAP_PLANE + t / D::MAP_W * S::MAP_PITCH +
                              S::MARGIN + t % D::MAP_W];
            sum = warp_sum(sum);
            float* place = partial + S::PARTIAL_BIAS + o;
            if (lane == 0) *place = is_first ? sum : *place + sum;
        }
    }
};

// Back through the convolutions, the last first
template <class S>
__device__ void convolutions_backward(List<S>, int) {
    maps_gradient<S>();
    WeightGradient<S>::sum_rows();
    __syncthreads();
}
template <class S, class Before, class... Others>
__device__ void convolutions_backward(List<S, Before, Others...>, int round) {
    maps_gradient<S>();
    if constexpr (S::STRIDE == 1)
        conv_input_gradient<S, Before>();
    else
        strided_input_gradient<S, Before>();
    WeightGradient<S>::sum_rows();
    exchange<S::EXCHANGE_BACK>(Derived<Before>::others() * S::H * S::W, round);
    convolutions_backward(List<Before, Others...>{}, round);
}

// ---------------------------------------------------------------------------------------------
// The gradients of a mini-batch: each cluster takes every n_groups-th sample. What is summed over
// samples is summed over those of a cluster here, over the clusters by "update".

struct Batch {
    const Pixel* X;         // (n_samples, n_features)
    const int* labels;      // of the rows of X
    const int* rows;        // rows of X in the order of the epoch
    const float* shares;    // in that order: of the mini-batch's weight
    const Schedule* schedule;
    int* counters;          // the step that "gradients" takes, and the one that "update" takes
    int size;               // samples in a mini-batch
    Wide mean;
    float scale;
};

template <class First>
__device__ void batch_gradients(const Batch& batch, int n_samples, float smoothing,
                                const float* __restrict__ parameters, float* states, float* grads,
                                float* partials, double* sums_of_losses) {
    const int group = blockIdx.x / RANKS, n_groups = gridDim.x / RANKS;
    const int step = batch.counters[0];
    if (blockIdx.x == 0 && threadIdx.x == 0) batch.counters[1] = step;
    const int* rows = batch.rows + (long long)step * batch.size;
    const float* shares = batch.shares + (long long)step * batch.size;
    float* partial = partials + (long long)group * Parameters::CONVOLUTIONS;
    float loss = 0.0f;
    for_each(Convolutions{}, [&](auto layer) { load_weights<decltype(layer)>(parameters); });
    load_biases(parameters);
    int row = rows[group];
    clear_margins();
    if constexpr (RANKS > 1)
        for (int t = threadIdx.x; t < Shared::N_BARRIERS; t += THREADS) make_barrier(barrier(t));
    __syncthreads();
    for (int n = group, round = 0; n < n_samples; n += n_groups, round++) {
        const int label = batch.labels[row];
        const float share_of_batch = shares[n];
        load_image<First>(batch.X, row, batch.mean, batch.scale);
        if (n + n_groups < n_samples) row = rows[n + n_groups];
        meet();
        if (n == group)  // behind what the convolutions have waited for
            for_each(DenseLayers{},
                     [&](auto layer) { OwnOutputs<decltype(layer)>::keep(parameters); });
        for_each(Convolutions{}, [&](auto layer) { conv_forward<decltype(layer)>(0, round); });
        for_each(DenseLayers{},
                 [&](auto layer) { dense_forward<decltype(layer)>(parameters, round); });
        if (threadIdx.x < WARP) {
            log_softmax();
            loss += cross_entropy(label, share_of_batch, smoothing);
        }
        __syncthreads();
        for_each(DenseLayersBackwards{},
                 [&](auto layer) { dense_input_gradient<decltype(layer)>(parameters, round); });
        if (rank_of_block() == 0)
            for_each(DenseLayers{}, [&](auto layer) {
                store_dense<decltype(layer)>(states + (long long)n * Rows::STATES,
                                             grads + (long long)n * Rows::GRADS);
            });
        convolutions_backward(ConvolutionsBackwards{}, round);
        for_each(Convolutions{}, [&](auto layer) {
            WeightGradient<decltype(layer)>::sum_splits(partial, n == group);
        });
        if (n + n_groups < n_samples) meet();
    }
    if (threadIdx.x < WARP) loss = warp_sum(loss);
    if (threadIdx.x == 0 && rank_of_block() == 0)
        sums_of_losses[group] += (double)batch.schedule[step].total * loss;
}

extern "C" __global__ void __cluster_dims__(RANKS, 1, 1) __launch_bounds__(THREADS, BLOCKS)
gradients(const Pixel* X, const int* labels, const int* rows, const float* shares,
          const Schedule* schedule, int* counters, int batch_size, Wide mean, float scale,
          int n_samples, float smoothing, const float* parameters, float* states, float* grads,
          float* partials, double* sums_of_losses)
{
    const Batch batch = {X, labels, rows, shares, schedule, counters, batch_size, mean, scale};
    batch_gradients<Conv0>(batch, n_samples, smoothing, parameters, states, grads, partials,
                           sums_of_losses);
}

// ---------------------------------------------------------------------------------------------
// Sums over the samples, and the formulas of `_optimizers.py`. A block: UPDATED columns, whose sums
// are cut in PARTS; then each thread steps one parameter.

constexpr int UPDATE_THREADS = PARTS * UPDATED;

// Samples that a thread has on their way at once
constexpr int AT_ONCE = 16;

// A column of the convolutions' partial gradients: a weight, or a bias
__device__ int column_of_partials(int block) {
    const int column = block * UPDATED + threadIdx.x % UPDATED;
    if (threadIdx.x >= UPDATED || column >= Parameters::CONVOLUTIONS) return -1;
    return column < Parameters::CONVOLUTION_WEIGHTS
               ? column
               : Parameters::WEIGHTS + column - Parameters::CONVOLUTION_WEIGHTS;
}

__device__ float sum_partials(const float* __restrict__ partials, int n_groups, int block) {
    const int lane = threadIdx.x % UPDATED, part = threadIdx.x / UPDATED;
    const int column = block * UPDATED + lane;
    float sum = 0.0f;
    for (int first = part; first < n_groups; first += PARTS * AT_ONCE) {
        float loaded[AT_ONCE];
        #pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int n = first + PARTS * i;
            loaded[i] = n < n_groups && column < Parameters::CONVOLUTIONS
                            ? partials[(long long)n * Parameters::CONVOLUTIONS + column] : 0.0f;
        }
        #pragma unroll
        for (int i = 0; i < AT_ONCE; i++) sum += loaded[i];
    }
    shared[part * UPDATED + lane] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int other = 0; other < PARTS; other++) sum += shared[other * UPDATED + lane];
    return sum;
}

// The weights of a dense layer from UPDATED inputs, behind the last the bias, to PARTS outputs
template <class L>
struct DenseUpdate {
    static constexpr int BLOCKS_OF_OUTPUTS = parts(L::IN + 1, UPDATED);
    static constexpr int BLOCKS = BLOCKS_OF_OUTPUTS * parts(L::OUT, PARTS);

    __device__ static int input(int block) {
        return block % BLOCKS_OF_OUTPUTS * UPDATED + threadIdx.x % UPDATED;
    }
    __device__ static int output(int block) { return block / BLOCKS_OF_OUTPUTS * PARTS; }

    // The parameter that a thread steps
    __device__ static int index(int block) {
        const int i = input(block), o = output(block) + threadIdx.x / UPDATED;
        if (i > L::IN || o >= L::OUT) return -1;
        return i < L::IN ? L::WEIGHT + o * L::IN + i : Parameters::WEIGHTS + L::BIAS + o;
    }

    // A thread: the products of an input with all outputs' gradients, over a part of the samples
    __device__ static float gradient(const float* __restrict__ states,
                                     const float* __restrict__ grads, int n_samples, int block) {
        const int lane = threadIdx.x % UPDATED, part = threadIdx.x / UPDATED, i = input(block);
        const float* state = states + L::STATE + smaller(i, L::IN - 1);
        const float* grad = grads + L::GRAD + output(block) + threadIdx.x % PARTS;
        float sums[PARTS];
        for (int k = 0; k < PARTS; k++) sums[k] = 0.0f;
        for (int first = 0; first < n_samples; first += PARTS * AT_ONCE) {
            const int n = first + threadIdx.x / PARTS;
            const float staged = n < n_samples ? grad[(long long)n * Rows::GRADS] : 0.0f;
            float inputs[AT_ONCE];
            #pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                // The samples beyond the last are the last again, with gradients of zero
                const int sample = smaller(first + part * AT_ONCE + k, n_samples - 1);
                inputs[k] = i == L::IN ? 1.0f : state[(long long)sample * Rows::STATES];
            }
            shared[threadIdx.x] = staged;
            __syncthreads();
            #pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                float of_sample[PARTS];
                load_vector(shared + (part * AT_ONCE + k) * PARTS, of_sample);
                for (int o = 0; o < PARTS; o++) sums[o] += inputs[k] * of_sample[o];
            }
            __syncthreads();
        }
        for (int o = 0; o < PARTS; o++) shared[(o * PARTS + part) * UPDATED + lane] = sums[o];
        __syncthreads();
        float sum = 0.0f;
        for (int other = 0; other < PARTS; other++)
            sum += shared[(part * PARTS + other) * UPDATED + lane];
        return sum;
    }
};

struct Solver {
    Schedule now;
    float momentum;
    double beta_1, beta_2;
    float *parameters, *moment, *second_moment, *average;

    // The step of one parameter, loaded before its gradient is known
    struct Loaded {
        float parameter, moment, second_moment, average;
    };

    __device__ Loaded load(int index) const {
        Loaded loaded = {0.0f, 0.0f, 0.0f, 0.0f};
        if (index < 0) return loaded;
        loaded.parameter = parameters[index];
        loaded.moment = moment[index];
        if (OPTIMIZER == ADAM) loaded.second_moment = second_moment[index];
        if (AVERAGES) loaded.average = average[index];
        return loaded;
    }

    __device__ void step(int index, Loaded loaded, float grad) const {
        if (index < 0) return;
        const bool is_weight = index < Parameters::WEIGHTS;
        float parameter = loaded.parameter;
        if (is_weight) grad += now.penalty * parameter;  // the L2 penalty's
        if (OPTIMIZER == ADAM) {
            if (is_weight) parameter *= now.keep;
            const float mean = (float)beta_1 * loaded.moment + (float)(1 - beta_1) * grad;
            const float mean_square = (float)beta_2 * loaded.second_moment +
                                      (float)(1 - beta_2) * (grad * grad);
            moment[index] = mean;
            second_moment[index] = mean_square;
            parameter -= now.rate * (mean / (sqrtf(mean_square) + now.epsilon));
        } else {
            const float velocity = momentum * loaded.moment + grad;
            moment[index] = velocity;
            parameter -= now.rate * (OPTIMIZER == NESTEROV ? momentum * velocity + grad : velocity);
        }
        parameters[index] = parameter;
        if (AVERAGES)
            average[index] = loaded.average + now.average_rate * (parameter - loaded.average);
    }
};

// Go through the dense layers to the one that a block belongs to
template <class L, class... Others>
__device__ void update_dense(List<L, Others...>, const float* states, const float* grads,
                             int n_samples, const Solver& solver, int block, int& index,
                             Solver::Loaded& loaded, float& grad) {
    using Update = DenseUpdate<L>;
    if (block < Update::BLOCKS) {
        index = Update::index(block);
        loaded = solver.load(index);
        grad = Update::gradient(states, grads, n_samples, block);
    } else if constexpr (sizeof...(Others) > 0) {
        update_dense(List<Others...>{}, states, grads, n_samples, solver, block - Update::BLOCKS,
                     index, loaded, grad);
    }
}

extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
update(const Schedule* schedule, int* counters, int n_samples, int n_groups, const float* states,
       const float* grads, const float* partials, float momentum, double beta_1,
       double beta_2, float* parameters, float* moment, float* second_moment, float* average,
       double* sums_of_squares)
{
    constexpr int BLOCKS_OF_PARTIALS = parts(Parameters::CONVOLUTIONS, UPDATED);
    const int step = counters[1], block = blockIdx.x;
    if (block == 0 && threadIdx.x == 0) counters[0] = step + 1;
    const Solver solver = {schedule[step], momentum, beta_1, beta_2,
                           parameters, moment, second_moment, average};
    int index = -1;
    float grad = 0.0f;
    Solver::Loaded loaded;
    if (block < BLOCKS_OF_PARTIALS) {
        index = column_of_partials(block);
        loaded = solver.load(index);
        grad = sum_partials(partials, n_groups, block);
    } else {
        update_dense(DenseLayers{}, states, grads, n_samples, solver, block - BLOCKS_OF_PARTIALS,
                     index, loaded, grad);
    }

    if (solver.now.penalty != 0.0f) {  // the L2 penalty's share of the loss
        const bool is_weight = index >= 0 && index < Parameters::WEIGHTS;
        __syncthreads();
        shared[threadIdx.x] = is_weight ? loaded.parameter * loaded.parameter : 0.0f;
        for (int half = UPDATE_THREADS / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        }
        if (threadIdx.x == 0) sums_of_squares[block] += shared[0];
    }
    solver.step(index, loaded, grad);
}
