"use strict";
// What is drawn on the page, by mouse, finger, pen or keys, goes through the network of try_it.js.

const element = (id) => document.getElementById(id);
const drawing = element("drawing"), context = drawing.getContext("2d");
let strokes = [], example = null, isDown = false, pen = [140, 140], isDue = false;

const bars = Array.from({ length: 10 }, (_, digit) => {
  const row = element("probabilities").appendChild(document.createElement("li"));
  row.innerHTML = `<span>${digit}</span><span class="bar"><i></i></span><span class="percent"></span>`;
  const button = element("examples").appendChild(document.createElement("button"));
  button.textContent = digit;
  button.setAttribute("aria-label", `MNIST's example of a ${digit}`);
  button.onclick = () => { clear(); example = bytes(MODEL.examples[digit]); };
  return row;
});

// A map in greys: black for the least of its numbers, white for the largest of all maps beside it.
function show(canvas, values, largest) {
  const width = Math.sqrt(values.length), image = new ImageData(width, width);
  values.forEach((value, n) => {
    const grey = largest > 0 ? (255 * value) / largest : 0;
    image.data.set([grey, grey, grey, 255], 4 * n);
  });
  canvas.width = canvas.height = width;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function showMaps(id, maps) {
  const largest = Math.max(...maps.map((map) => Math.max(...map)));
  const parent = element(id);
  while (parent.children.length < maps.length) parent.appendChild(document.createElement("canvas"));
  maps.forEach((map, n) => show(parent.children[n], map, largest));
}

function update() {
  isDue = false;
  context.fillStyle = "black";
  context.fillRect(0, 0, 280, 280);
  trace(context, strokes, 20, (point) => point);
  const isEmpty = !example && !strokes.length;
  const pixels = example ?? (isEmpty ? new Uint8Array(784) : centred(strokes));
  show(element("seen"), pixels, 255);
  if (example) {
    context.imageSmoothingEnabled = false;
    context.drawImage(element("seen"), 0, 0, 280, 280);
  }
  if (document.activeElement === drawing) { // where the keys draw
    context.fillStyle = isDown ? "orange" : "grey";
    context.fillRect(pen[0] - 4, pen[1] - 4, 8, 8);
  }
  const { first, second, probabilities } = forward(pixels);
  showMaps("first", first);
  showMaps("second", second);
  const answer = probabilities.indexOf(Math.max(...probabilities));
  bars.forEach((row, digit) => {
    const percent = isEmpty ? 0 : 100 * probabilities[digit];
    row.querySelector("i").style.width = `${percent}%`;
    row.querySelector(".percent").textContent = isEmpty ? "" : `${percent.toFixed(1)} %`;
    row.classList.toggle("answer", !isEmpty && digit === answer);
  });
  element("answer").textContent = isEmpty
    ? "Draw a digit."
    : `It reads ${answer}, at ${(100 * probabilities[answer]).toFixed(0)} %.`;
}

function soon() { // once for each frame, however many points come
  if (!isDue) requestAnimationFrame(update);
  isDue = true;
}

function clear() {
  [strokes, example, isDown] = [[], null, false];
  soon();
}

function begin(point) {
  if (example) clear();
  strokes.push([point]);
  isDown = true;
}

function pointOf(event) { // the canvas may be shown smaller than its 280 pixels
  const box = drawing.getBoundingClientRect();
  return [(280 * (event.clientX - box.left)) / box.width, (280 * (event.clientY - box.top)) / box.height];
}

// A second finger, and another button than the first, draw nothing.
drawing.onpointerdown = (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  if (event.isTrusted) drawing.setPointerCapture(event.pointerId);
  begin(pointOf(event));
  soon();
};
drawing.onpointermove = (event) => {
  if (!isDown || !event.isPrimary || !event.buttons) return;
  strokes.at(-1).push(pointOf(event));
  soon();
};
drawing.onpointerup = drawing.onpointercancel = (event) => { if (event.isPrimary) isDown = false; };
drawing.onfocus = drawing.onblur = soon;

const STEPS = { ArrowLeft: [-7, 0], ArrowRight: [7, 0], ArrowUp: [0, -7], ArrowDown: [0, 7] };
drawing.onkeydown = (event) => {
  if (event.key in STEPS) {
    pen = pen.map((at, axis) => Math.min(270, Math.max(10, at + STEPS[event.key][axis])));
    if (isDown) strokes.at(-1).push(pen);
  } else if (event.key === " ") {
    if (isDown) isDown = false;
    else begin(pen);
  } else if (event.key === "Delete" || event.key === "Backspace") clear();
  else return;
  event.preventDefault();
  soon();
};
element("clear").onclick = clear;
update();
