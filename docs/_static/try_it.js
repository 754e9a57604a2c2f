"use strict";
// LeNet-5 for the third time: after Python's loops and NumPy's arrays, plain JavaScript.
// From pixels to probabilities, then from strokes to pixels; try_it_page.js is the page itself.

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const numbers = (base64) => new Float32Array(bytes(base64).buffer);
const WEIGHTS = MODEL.weights.map(numbers);
const BIASES = MODEL.biases.map(numbers);
const relu = (values) => values.map((value) => Math.max(value, 0));

// Maps are [channel][row * width + column]; all images and maps are square.
function convolve(maps, weights, biases, kernelSize, padding) {
  const width = Math.sqrt(maps[0].length);
  const outWidth = width + 2 * padding - kernelSize + 1;
  return Array.from(biases, (bias, k) => {
    const out = new Float64Array(outWidth * outWidth).fill(bias);
    maps.forEach((map, c) => {
      const kernel = (k * maps.length + c) * kernelSize * kernelSize;
      for (let y = 0; y < outWidth; y++) for (let x = 0; x < outWidth; x++) {
        for (let i = 0; i < kernelSize; i++) for (let j = 0; j < kernelSize; j++) {
          const row = y + i - padding, column = x + j - padding;
          if (row < 0 || row >= width || column < 0 || column >= width) continue;
          out[y * outWidth + x] += weights[kernel + i * kernelSize + j] * map[row * width + column];
        }
      }
    });
    return out;
  });
}

// The mean of each window of 2 x 2.
function pool(map) {
  const width = Math.sqrt(map.length), half = Math.floor(width / 2);
  return Float64Array.from({ length: half * half }, (_, n) => {
    const at = 2 * Math.floor(n / half) * width + 2 * (n % half);
    return (map[at] + map[at + 1] + map[at + width] + map[at + width + 1]) / 4;
  });
}

function dense(inputs, weights, biases) {
  return Array.from(biases, (bias, k) =>
    inputs.reduce((sum, input, n) => sum + weights[k * inputs.length + n] * input, bias));
}

function softmax(logits) {
  const largest = Math.max(...logits); // so that nothing overflows
  const exponentials = logits.map((logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((a, b) => a + b);
  return exponentials.map((value) => value / sum);
}

// 784 pixels, from 0 to 255, through all layers.
function forward(pixels) {
  const image = Float64Array.from(pixels, (pixel) => (pixel - MODEL.mean) / MODEL.scale);
  const first = convolve([image], WEIGHTS[0], BIASES[0], 5, 2).map(relu).map(pool); // 6 x 14 x 14
  const second = convolve(first, WEIGHTS[1], BIASES[1], 5, 0).map(relu).map(pool); // 16 x 5 x 5
  const flat = second.flatMap((map) => [...map]);
  const hidden = relu(dense(flat, WEIGHTS[2], BIASES[2]));
  const last = relu(dense(hidden, WEIGHTS[3], BIASES[3]));
  return { first, second, probabilities: softmax(dense(last, WEIGHTS[4], BIASES[4])) };
}

// Strokes are drawn anew as MNIST's digits were made: scaled into 20 x 20 pixels, antialiased, and
// moved so that the centre of mass comes to pixel (14, 14) of 28 x 28.
function centred(strokes) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 28;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const [left, right, top, bottom] =
    [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const thickness = 2.4;
  const scale = (20 - thickness) / Math.max(right - left, bottom - top, 40); // a dot stays one
  const draw = (x, y) => {
    context.fillRect(0, 0, 28, 28);
    trace(context, strokes, thickness, ([a, b]) =>
      [x + scale * (a - (left + right) / 2), y + scale * (b - (top + bottom) / 2)]);
    return context.getImageData(0, 0, 28, 28).data.filter((_, n) => n % 4 === 0);
  };
  const pixels = draw(14, 14);
  const mass = pixels.reduce((a, b) => a + b, 0);
  const meanOf = (at) => pixels.reduce((sum, p, n) => sum + p * at(n), 0) / mass + 0.5;
  return draw(28.5 - meanOf((n) => n % 28), 28.5 - meanOf((n) => Math.floor(n / 28)));
}

function trace(context, strokes, thickness, place) {
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: thickness, strokeStyle: "white" });
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...place(stroke[0]));
    for (const point of stroke) context.lineTo(...place(point));
    context.stroke();
  }
}
