// Draws a plane of latents with a decoder in ONNX, and the image of the point under the pointer.
import * as ort from "./ort.wasm.bundle.min.mjs";

const EDGE = 3; // the plane goes from -EDGE to EDGE on both axes
const TILES = 20; // images along an edge of the plane
const SIDE = 28; // pixels along an edge of an image
const STEP = 0.1; // of an arrow key

const here = new URL(".", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain web server does not send
ort.env.wasm.wasmPaths = { wasm: `${here}ort-wasm-simd-threaded.wasm` };

const plane = document.getElementById("latent-map-plane");
const image = document.getElementById("latent-map-image");
const status = document.getElementById("latent-map-status");
const map = document.createElement("canvas"); // the plane without the marker
map.width = map.height = plane.width = plane.height = TILES * SIDE;
image.width = image.height = SIDE;

let session;
let point = [0, 0];
let busy = false;
let waiting = false;

// Decodes latents [[x, y], ...] to grey levels, one Uint8Array of SIDE * SIDE after the other.
async function decode(latents) {
  const tensor = new ort.Tensor("float32", Float32Array.from(latents.flat()), [latents.length, 2]);
  const { images } = await session.run({ latents: tensor });
  return images.data;
}

function paint(context, levels, left, top) {
  const pixels = context.createImageData(SIDE, SIDE);
  levels.forEach((level, i) => pixels.data.set([level, level, level, 255], 4 * i));
  context.putImageData(pixels, left, top);
}

async function drawMap() {
  const context = map.getContext("2d");
  const at = (tile) => ((tile + 0.5) / TILES) * 2 * EDGE - EDGE;
  for (let row = 0; row < TILES; row++) {
    const latents = Array.from({ length: TILES }, (_, column) => [at(column), -at(row)]);
    const levels = await decode(latents);
    for (let column = 0; column < TILES; column++) {
      const begin = column * SIDE * SIDE;
      paint(context, levels.subarray(begin, begin + SIDE * SIDE), column * SIDE, row * SIDE);
    }
  }
}

function drawMarker() {
  const context = plane.getContext("2d");
  const [x, y] = [(point[0] + EDGE) / 2 / EDGE, (EDGE - point[1]) / 2 / EDGE];
  context.drawImage(map, 0, 0);
  context.beginPath();
  context.arc(x * plane.width, y * plane.height, 10, 0, 2 * Math.PI);
  context.lineWidth = 4;
  context.strokeStyle = "#ff5722";
  context.stroke();
}

// Shows the image of `point`; while one is being decoded, only the newest point waits.
async function show() {
  if (busy) {
    waiting = true;
    return;
  }
  busy = true;
  do {
    waiting = false;
    const [x, y] = point;
    const begin = performance.now();
    const levels = await decode([[x, y]]);
    const milliseconds = performance.now() - begin;
    paint(image.getContext("2d"), levels, 0, 0);
    drawMarker();
    status.textContent =
      `latents (${x.toFixed(2)}, ${y.toFixed(2)}), decoded in ${milliseconds.toFixed(1)} ms`;
  } while (waiting);
  busy = false;
}

function moveTo(x, y) {
  const inside = (value) => Math.max(-EDGE, Math.min(EDGE, value));
  point = [inside(x), inside(y)];
  return show();
}

function follow(event) {
  const box = plane.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * 2 * EDGE - EDGE;
  const y = EDGE - ((event.clientY - box.top) / box.height) * 2 * EDGE;
  return moveTo(x, y);
}

async function start() {
  session = await ort.InferenceSession.create(`${here}decode.onnx`);
  await drawMap();
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    follow(event);
  });
  plane.addEventListener("pointermove", (event) => event.buttons && follow(event));
  plane.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const move = moves[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    moveTo(point[0] + STEP * move[0], point[1] + STEP * move[1]);
  });
  await show();
  window.latentMap = { decode, moveTo, point: () => point };
}

start().catch((error) => {
  status.textContent = `The decoder could not be loaded: ${error.message}`;
  console.error(error);
});
