// The kernels of one training step, as templates over the sizes of the layers. `_cuda.py` puts what
// depends on the network before this text (THREADS, SAMPLES, RELU, struct Images, ...), and behind
// it the entry points.
//
// Samples come first: images and maps are (N, C, H, W), vectors are (N, features). A block has
// THREADS threads. Every sum is taken in an order that depends on the sizes alone, and there are no
// atomic operations: a step gives the same bits on every run.

extern __shared__ float shared[];

constexpr int WARP = 32;

__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int unrolled(int n) { return n <= 7 ? n : 1; }

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
// Sums and maxima over a warp, which every lane gets

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
// What a convolution reads: rows of features, or the layer before

// The row of X that is the n-th of the mini-batch, scaled and laid out as `_images.py` does it
struct FromPixels {
    const Pixel* X;     // (n_samples, n_features)
    const int* rows;    // rows of X in the order of the epoch
    long long first;    // place of the mini-batch in it
    Wide mean;
    float scale;

    __device__ float operator()(int n, int c, int y, int x) const {
        y -= Images::TOP;
        x -= Images::LEFT;
        if (y < 0 || y >= Images::H * Images::ZOOM || x < 0 || x >= Images::W * Images::ZOOM)
            return 0.0f;
        const int feature = (c * Images::H + y / Images::ZOOM) * Images::W + x / Images::ZOOM;
        if (feature >= Images::N_FEATURES) return 0.0f;
        const Pixel pixel = X[(long long)rows[first + n] * Images::N_FEATURES + feature];
        return (float)((Wide)pixel - mean) * scale;
    }
};

template <class S>
struct FromLayer {
    const float* __restrict__ images;  // (N, C_IN, H, W)

    __device__ float operator()(int n, int c, int y, int x) const {
        return images[(((long long)n * S::C_IN + c) * S::H + y) * S::W + x];
    }
};

// Sizes that follow from those of a convolution. Maps are its outputs before pooling.
template <class S>
struct Derived {
    static constexpr int PADDED_H = S::H + 2 * S::PADDING, PADDED_W = S::W + 2 * S::PADDING;
    static constexpr int IMAGE = S::C_IN * PADDED_H * PADDED_W;
    static constexpr int MAP_H = S::OUT_H * S::POOL, MAP_W = S::OUT_W * S::POOL;
    static constexpr int OUTPUTS = S::OUT_H * S::OUT_W;
    // Zeros around a map's gradient, for the outputs beyond its edges
    static constexpr int MARGIN = larger(S::K - 1 - S::PADDING, 0) / S::STRIDE;
    static constexpr int FRAMED_H =
        MARGIN + larger((S::H - 1 + S::PADDING) / S::STRIDE, MAP_H - 1) + 1;
    static constexpr int FRAMED_W =
        MARGIN + larger((S::W - 1 + S::PADDING) / S::STRIDE, MAP_W - 1) + 1;
    static constexpr int FRAMED = S::C_OUT * FRAMED_H * FRAMED_W;
};

template <class S, class Input>
__device__ void load_image(const Input& input, int n, float* image) {
    using D = Derived<S>;
    for (int t = threadIdx.x; t < D::IMAGE; t += THREADS) {
        const int x = t % D::PADDED_W - S::PADDING;
        const int y = t / D::PADDED_W % D::PADDED_H - S::PADDING;
        const bool inside = y >= 0 && y < S::H && x >= 0 && x < S::W;
        image[t] = inside ? input(n, t / (D::PADDED_H * D::PADDED_W), y, x) : 0.0f;
    }
}

// ---------------------------------------------------------------------------------------------
// Convolution, activation and pooling. One block: a part of one sample's outputs, one a thread.
// Grid: (n_samples, parts). Shared memory: IMAGE numbers.

template <class S, class Input>
__device__ void conv_pool_forward(const Input& input, const float* __restrict__ parameters,
                                  float* maps, float* output) {
    using D = Derived<S>;
    constexpr int P = S::POOL;
    const int n = blockIdx.x;
    load_image<S>(input, n, shared);
    __syncthreads();
    const int place = blockIdx.y * THREADS + threadIdx.x;
    if (place >= S::C_OUT * D::OUTPUTS) return;
    const int X = place % S::OUT_W, Y = place / S::OUT_W % S::OUT_H, o = place / D::OUTPUTS;
    const float* weight = parameters + S::WEIGHT + o * S::C_IN * S::K * S::K;
    const float bias = parameters[S::BIAS + o];

    float sums[P][P];
    for (int i = 0; i < P; i++)
        for (int j = 0; j < P; j++) sums[i][j] = bias;
    for (int c = 0; c < S::C_IN; c++) {
        const float* corner =
            shared + (c * D::PADDED_H + Y * P * S::STRIDE) * D::PADDED_W + X * P * S::STRIDE;
        #pragma unroll unrolled(S::K)
        for (int u = 0; u < S::K; u++)
            #pragma unroll unrolled(S::K)
            for (int v = 0; v < S::K; v++) {
                const float w = weight[(c * S::K + u) * S::K + v];
                #pragma unroll
                for (int i = 0; i < P; i++)
                    #pragma unroll
                    for (int j = 0; j < P; j++)
                        sums[i][j] +=
                            w * corner[(i * S::STRIDE + u) * D::PADDED_W + j * S::STRIDE + v];
            }
    }

    float pooled = 0.0f;
    for (int i = 0; i < P; i++)
        for (int j = 0; j < P; j++) {
            const float state = activate<S::ACTIVATION>(sums[i][j]);
            if (maps != nullptr)
                maps[((long long)(n * S::C_OUT + o) * D::MAP_H + Y * P + i) * D::MAP_W + X * P +
                     j] = state;
            if (!S::MAX_POOLING)
                pooled += state;
            else if (i + j == 0 || state > pooled || state != state)
                pooled = state;
        }
    output[(long long)n * S::C_OUT * D::OUTPUTS + place] =
        S::MAX_POOLING ? pooled : pooled / (P * P);
}

// The gradient with respect to one pooling window of a map before the activation.
// `window` is the window's first place in the map.
template <class S>
__device__ void window_gradient(const float* window, float output_grad,
                                float (&grad)[S::POOL][S::POOL]) {
    constexpr int P = S::POOL;
    int first_maximum = 0;
    for (int i = 0; i < P * P; i++) {
        const float state = window[i / P * Derived<S>::MAP_W + i % P];
        const float largest =
            window[first_maximum / P * Derived<S>::MAP_W + first_maximum % P];
        if (state > largest) first_maximum = i;
        const float share = S::MAX_POOLING ? 1.0f : 1.0f / (P * P);
        grad[i / P][i % P] = derivative<S::ACTIVATION>(state) * output_grad * share;
    }
    if (S::MAX_POOLING)
        for (int i = 0; i < P * P; i++)
            if (i != first_maximum) grad[i / P][i % P] = 0.0f;
}

// The gradient with respect to a convolution's input. One block: a part of one sample's pixels, one
// a thread. Grid: (n_samples, parts). Shared memory: FRAMED numbers.
template <class S>
__device__ void conv_pool_input_gradient(const float* __restrict__ parameters,
                                         const float* __restrict__ maps,
                                         const float* __restrict__ output_grad,
                                         float* input_grad) {
    using D = Derived<S>;
    constexpr int P = S::POOL;
    const int n = blockIdx.x;
    for (int t = threadIdx.x; t < D::FRAMED; t += THREADS) shared[t] = 0.0f;
    __syncthreads();
    for (int t = threadIdx.x; t < S::C_OUT * D::OUTPUTS; t += THREADS) {
        const int X = t % S::OUT_W, Y = t / S::OUT_W % S::OUT_H, o = t / D::OUTPUTS;
        const float* map = maps + (long long)(n * S::C_OUT + o) * D::MAP_H * D::MAP_W;
        float grad[P][P];
        window_gradient<S>(map + Y * P * D::MAP_W + X * P,
                           output_grad[(long long)n * S::C_OUT * D::OUTPUTS + t], grad);
        float* framed =
            shared + (o * D::FRAMED_H + D::MARGIN + Y * P) * D::FRAMED_W + D::MARGIN + X * P;
        for (int i = 0; i < P; i++)
            for (int j = 0; j < P; j++) framed[i * D::FRAMED_W + j] = grad[i][j];
    }
    __syncthreads();
    const int place = blockIdx.y * THREADS + threadIdx.x;
    if (place >= S::C_IN * S::H * S::W) return;
    const int x = place % S::W, y = place / S::W % S::H, c = place / (S::H * S::W);

    float sum = 0.0f;
    for (int o = 0; o < S::C_OUT; o++) {
        const float* weight = parameters + S::WEIGHT + (o * S::C_IN + c) * S::K * S::K;
        const float* framed =
            shared + (o * D::FRAMED_H + D::MARGIN) * D::FRAMED_W + D::MARGIN;
        #pragma unroll unrolled(S::K)
        for (int u = 0; u < S::K; u++) {
            const int Y = y + S::PADDING - u;
            if (Y % S::STRIDE != 0) continue;
            #pragma unroll unrolled(S::K)
            for (int v = 0; v < S::K; v++) {
                const int X = x + S::PADDING - v;
                if (X % S::STRIDE != 0) continue;
                sum += weight[u * S::K + v] *
                       framed[Y / S::STRIDE * D::FRAMED_W + X / S::STRIDE];
            }
        }
    }
    input_grad[(long long)n * S::C_IN * S::H * S::W + place] = sum;
}

// Parts of the gradient with respect to a convolution's weights and biases: a row of `partials` for
// each group of samples, which the optimizer adds up. One block: one group, one output channel.
// Grid: (n_groups, C_OUT). Shared memory: IMAGE + MAP_H * MAP_W + THREADS numbers.
template <class S, class Input>
__device__ void conv_pool_weight_gradient(const Input& input, const float* __restrict__ maps,
                                          const float* __restrict__ output_grad, int n_samples,
                                          float* partials) {
    using D = Derived<S>;
    constexpr int P = S::POOL;
    constexpr int ELEMENTS = S::C_IN * S::K * S::K + 1;  // of a kernel; the last is the bias
    // Small kernels: several threads share an element, each takes some rows of the map
    constexpr int SHARERS = larger(THREADS / ELEMENTS, 1);
    constexpr int EACH = (ELEMENTS + THREADS - 1) / THREADS;
    float* image = shared;
    float* map_grad = image + D::IMAGE;
    float* sums_of_sharers = map_grad + D::MAP_H * D::MAP_W;
    const int o = blockIdx.y;
    const int first = SHARERS > 1 ? threadIdx.x % ELEMENTS : threadIdx.x;
    const int sharer = SHARERS > 1 ? threadIdx.x / ELEMENTS : 0;

    float sums[EACH];
    for (int e = 0; e < EACH; e++) sums[e] = 0.0f;
    for (int n = blockIdx.x; n < n_samples; n += gridDim.x) {
        load_image<S>(input, n, image);
        const float* map = maps + (long long)(n * S::C_OUT + o) * D::MAP_H * D::MAP_W;
        for (int t = threadIdx.x; t < D::OUTPUTS; t += THREADS) {
            const int begin = t / S::OUT_W * P * D::MAP_W + t % S::OUT_W * P;
            float grad[P][P];
            window_gradient<S>(map + begin,
                               output_grad[(long long)(n * S::C_OUT + o) * D::OUTPUTS + t], grad);
            for (int i = 0; i < P; i++)
                for (int j = 0; j < P; j++) map_grad[begin + i * D::MAP_W + j] = grad[i][j];
        }
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            const int element = first + e * THREADS;
            if (element >= ELEMENTS || sharer >= SHARERS) continue;
            const bool is_bias = element == ELEMENTS - 1;
            const int v = element % S::K, u = element / S::K % S::K, c = element / (S::K * S::K);
            const float* seen = image + (c * D::PADDED_H + u) * D::PADDED_W + v;
            float sum = 0.0f;
            for (int y = sharer; y < D::MAP_H; y += SHARERS)
                for (int x = 0; x < D::MAP_W; x++) {
                    const float pixel =
                        is_bias ? 1.0f : seen[(y * D::PADDED_W + x) * S::STRIDE];
                    sum += map_grad[y * D::MAP_W + x] * pixel;
                }
            sums[e] += sum;
        }
        __syncthreads();
    }

    if (SHARERS > 1) {
        sums_of_sharers[threadIdx.x] = sums[0];
        __syncthreads();
        sums[0] = 0.0f;
        for (int s = 0; s < SHARERS; s++) sums[0] += sums_of_sharers[s * ELEMENTS + first];
        if (sharer > 0) return;
    }
    float* partial = partials + (long long)blockIdx.x * Parameters::CONVOLUTIONS;
    for (int e = 0; e < EACH; e++) {
        const int element = first + e * THREADS;
        if (element < ELEMENTS - 1)
            partial[S::WEIGHT + o * (ELEMENTS - 1) + element] = sums[e];
        else if (element == ELEMENTS - 1)
            partial[S::PARTIAL_BIAS + o] = sums[e];
    }
}

// ---------------------------------------------------------------------------------------------
// Dense layers and the loss. One block: SAMPLES samples, from the first dense layer to the loss and
// back. Vectors of a block lie in shared memory, as (SAMPLES, features).

template <int SIZE>
__device__ void load_vectors(const float* __restrict__ from, int n_samples, float* to) {
    for (int t = threadIdx.x; t < SAMPLES * SIZE; t += THREADS) {
        const int n = blockIdx.x * SAMPLES + t / SIZE;
        to[t] = n < n_samples ? from[(long long)n * SIZE + t % SIZE] : 0.0f;
    }
    __syncthreads();
}

// Rows of `to` have ROW numbers: those of several layers, side by side
template <int SIZE, int ROW>
__device__ void store_vectors(const float* from, int n_samples, float* to) {
    for (int t = threadIdx.x; t < SAMPLES * SIZE; t += THREADS) {
        const int n = blockIdx.x * SAMPLES + t / SIZE;
        if (n < n_samples) to[(long long)n * ROW + t % SIZE] = from[t];
    }
}

// output = activation(weight @ input + bias): a warp for each output
template <int IN, int OUT, int ACTIVATION>
__device__ void dense_forward(const float* __restrict__ weight, const float* __restrict__ bias,
                              const float* input, float* output) {
    const int lane = threadIdx.x % WARP;
    for (int o = threadIdx.x / WARP; o < OUT; o += THREADS / WARP) {
        float sums[SAMPLES];
        for (int s = 0; s < SAMPLES; s++) sums[s] = 0.0f;
        for (int i = lane; i < IN; i += WARP) {
            const float w = weight[o * IN + i];
            for (int s = 0; s < SAMPLES; s++) sums[s] += w * input[s * IN + i];
        }
        for (int s = 0; s < SAMPLES; s++) {
            const float z = warp_sum(sums[s]) + bias[o];
            if (lane == 0) output[s * OUT + o] = activate<ACTIVATION>(z);
        }
    }
    __syncthreads();
}

// input_grad = weight.T @ output_grad, times the derivative of the activation that made the input
template <int IN, int OUT, int ACTIVATION>
__device__ void dense_backward(const float* __restrict__ weight, const float* output_grad,
                               const float* input, float* input_grad) {
    for (int i = threadIdx.x; i < IN; i += THREADS) {
        float sums[SAMPLES];
        for (int s = 0; s < SAMPLES; s++) sums[s] = 0.0f;
        for (int o = 0; o < OUT; o++) {
            const float w = weight[o * IN + i];
            for (int s = 0; s < SAMPLES; s++) sums[s] += w * output_grad[s * OUT + o];
        }
        for (int s = 0; s < SAMPLES; s++)
            input_grad[s * IN + i] = sums[s] * derivative<ACTIVATION>(input[s * IN + i]);
    }
    __syncthreads();
}

// The logits turn into logarithms of probabilities: a warp for each sample
template <int CLASSES>
__device__ void log_softmax(float* logits) {
    const int lane = threadIdx.x % WARP;
    for (int s = threadIdx.x / WARP; s < SAMPLES; s += THREADS / WARP) {
        float* of_sample = logits + s * CLASSES;
        float largest = -3.402823466e+38f, sum = 0.0f;
        for (int k = lane; k < CLASSES; k += WARP) largest = fmaxf(largest, of_sample[k]);
        largest = warp_max(largest);
        for (int k = lane; k < CLASSES; k += WARP) sum += expf(of_sample[k] - largest);
        const float log_sum = logf(warp_sum(sum));
        for (int k = lane; k < CLASSES; k += WARP)
            of_sample[k] = of_sample[k] - largest - log_sum;
    }
    __syncthreads();
}

// The formulas of `_loss.py`. Logarithms of probabilities turn into the gradient with respect to
// the logits; samples that a block has too many of weigh nothing.
template <int CLASSES>
__device__ void cross_entropy(const int* labels, const float* shares, int n_samples,
                              float smoothing, float* log_proba, float* losses) {
    const int lane = threadIdx.x % WARP;
    const float uniform = smoothing / CLASSES;
    for (int s = threadIdx.x / WARP; s < SAMPLES; s += THREADS / WARP) {
        const int n = blockIdx.x * SAMPLES + s;
        const int label = n < n_samples ? labels[n] : 0;
        const float share = n < n_samples ? shares[n] : 0.0f;
        float of_label = 0.0f, sum = 0.0f;
        for (int k = lane; k < CLASSES; k += WARP) {
            float& value = log_proba[s * CLASSES + k];
            const float target = uniform + (k == label ? 1.0f - smoothing : 0.0f);
            if (k == label) of_label = value;
            sum += value;
            value = share * (expf(value) - target);
        }
        of_label = warp_sum(of_label);
        sum = warp_sum(sum);
        if (lane == 0) losses[s] = share * ((smoothing - 1.0f) * of_label - uniform * sum);
    }
    __syncthreads();
}

// One number of a dense layer's gradient. Rows of both arrays are those of several layers.
__device__ float dense_gradient(const float* __restrict__ input, int input_row,
                                const float* __restrict__ output_grad, int grad_row,
                                int n_samples) {
    float sum = 0.0f;
    #pragma unroll 8
    for (int n = 0; n < n_samples; n++)
        sum += input[(long long)n * input_row] * output_grad[(long long)n * grad_row];
    return sum;
}

__device__ float dense_bias_gradient(const float* __restrict__ output_grad, int grad_row,
                                     int n_samples) {
    float sum = 0.0f;
    #pragma unroll 8
    for (int n = 0; n < n_samples; n++) sum += output_grad[(long long)n * grad_row];
    return sum;
}

// ---------------------------------------------------------------------------------------------
// The formulas of `_optimizers.py`: one parameter a thread. What changes from step to step stands in
// a row of `schedule`, worked out on the host. Shared memory: THREADS numbers.

struct Schedule {
    float total;         // of the mini-batch's sample weights
    float penalty;       // alpha / total
    float rate;          // factor of the change
    float epsilon;       // Adam's
    float keep;          // 1 - lr * decay, AdamW's
    float average_rate;  // 1 - decay of the average
};

__device__ void optimizer_step(const Schedule& now, float momentum,
                               const float* __restrict__ partials, int n_groups,
                               const float* __restrict__ gradient, float* parameters, float* moment,
                               float* second_moment, float* average, double* sum_of_squares) {
    const int index = blockIdx.x * THREADS + threadIdx.x;
    const bool is_weight = index < Parameters::WEIGHTS;
    float parameter = index < Parameters::ALL ? parameters[index] : 0.0f;

    if (now.penalty != 0.0f) {  // the L2 penalty's share of the loss
        shared[threadIdx.x] = is_weight ? parameter * parameter : 0.0f;
        for (int half = THREADS / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        }
        if (threadIdx.x == 0) sum_of_squares[blockIdx.x] += shared[0];
    }
    if (index >= Parameters::ALL) return;

    const int bias = index - Parameters::WEIGHTS;
    float grad = 0.0f;
    if (index < Parameters::CONVOLUTION_WEIGHTS ||
        (bias >= 0 && bias < Parameters::CONVOLUTION_BIASES)) {
        const int column = is_weight ? index : Parameters::CONVOLUTION_WEIGHTS + bias;
        #pragma unroll 8
        for (int group = 0; group < n_groups; group++)
            grad += partials[group * Parameters::CONVOLUTIONS + column];
    } else {
        grad = gradient[index];
    }
    if (is_weight) grad += now.penalty * parameter;

    if (OPTIMIZER == SGD || OPTIMIZER == NESTEROV) {
        const float velocity = momentum * moment[index] + grad;
        moment[index] = velocity;
        parameter -= now.rate * (OPTIMIZER == NESTEROV ? momentum * velocity + grad : velocity);
    } else {
        if (is_weight) parameter *= now.keep;
        const float mean = 0.9f * moment[index] + (float)(1 - 0.9) * grad;
        const float mean_square =
            0.999f * second_moment[index] + (float)(1 - 0.999) * (grad * grad);
        moment[index] = mean;
        second_moment[index] = mean_square;
        parameter -= now.rate * (mean / (sqrtf(mean_square) + now.epsilon));
    }
    parameters[index] = parameter;
    if (AVERAGES) average[index] += now.average_rate * (parameter - average[index]);
}
