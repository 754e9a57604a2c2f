// The kernel of prediction, behind `forward.cu`. A block takes SAMPLES samples at once through the
// dense layers, whose weights come from far, and goes on until none are left. `rows` may be null:
// all rows of X.

template <class First>
__device__ void predict_rows(const Pixel* X, const int* rows, int n_rows, Wide mean, float scale,
                             const float* parameters, float* logits) {
    constexpr int CLASSES = Shared::CLASSES;
    for_each(Convolutions{}, [&](auto layer) { load_weights<decltype(layer)>(parameters); });
    load_biases(parameters);
    clear_margins();
    __syncthreads();
    for (int first = blockIdx.x * SAMPLES; first < n_rows; first += gridDim.x * SAMPLES) {
        const int n = smaller(n_rows - first, SAMPLES);
        for (int s = 0; s < n; s++) {
            load_image<First>(X, rows == nullptr ? first + s : rows[first + s], mean, scale);
            __syncthreads();
            for_each(Convolutions{}, [&](auto layer) { conv_forward<decltype(layer)>(s, 0); });
        }
        for_each(DenseLayers{}, [&](auto layer) { dense_forward<decltype(layer)>(parameters, 0); });
        for (int t = threadIdx.x; t < n * CLASSES; t += THREADS)
            logits[(long long)first * CLASSES + t] = shared[Shared::LOGITS + t];
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
predict(const Pixel* X, const int* rows, int n_rows, Wide mean, float scale,
        const float* parameters, float* logits)
{
    predict_rows<Conv0>(X, rows, n_rows, mean, scale, parameters, logits);
}
