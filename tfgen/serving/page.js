"use strict";
// The page of `tfgen serve`. It knows models only through TF Serving's own metadata and :predict;
// each demo shows where a model has the endpoints that it needs.

const $ = (id) => document.getElementById(id);
let model = { name: "", endpoints: {}, height: 0, width: 0, channels: 0 }; // the chosen one

const listed = new Map(); // {name: what /models tells about it}

// The server --------------------------------------------------------------------------------

async function ask(path, body) {
  const options = body && { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || `HTTP ${response.status}`);
  return answer;
}

// Runs an endpoint of a model; an endpoint with one output gives that output alone.
async function predict(of, signature, inputs) {
  const endpoint = of.endpoints[signature];
  if ("labels" in endpoint.inputs) {
    const rows = Object.values(inputs)[0].length;
    inputs = { ...inputs, labels: Array(rows).fill(whole($("labels"))) };
  }
  const path = `/v1/models/${encodeURIComponent(of.name)}:predict`;
  return (await ask(path, { signature_name: signature, inputs })).outputs;
}

const problems = new Map(); // what went wrong last in each piece of work

// Shows the newest problem that its own work has not yet got over; an empty one says that it has.
function report(work, problem) {
  problems.delete(work);
  if (problem) problems.set(work, problem);
  $("problem").textContent = [...problems.values()].at(-1) ?? "";
  $("problem").hidden = !problems.size;
}

// Runs `work(model)` at most once at a time; calls meanwhile lead to one more run with the newest
// state. Work on a model that is no longer the chosen one ends with that model, in silence.
function latest(work) {
  let running = false, again = false;
  return async function run() {
    if (running) { again = true; return; }
    running = true;
    do {
      again = false;
      const of = model;
      let problem = "";
      try { await work(of); } catch (error) { problem = error.message; }
      if (of === model) report(work, problem);
    } while (again);
    running = false;
  };
}

// The work of a card. It may be called again while the model before still answers: the chosen one
// may not have this card.
const card = (id, work) => latest((of) => ($(id).hidden ? undefined : work(of)));

// The address holds the state, so that it can be kept and sent: #model&first=24&labels=3.
const FIELDS = ["first", "labels", "seedA", "seedB", "slide", "mapX", "mapY"];

function readAddress() {
  const [name, ...fields] = location.hash.slice(1).split("&");
  for (const [field, value] of new URLSearchParams(fields.join("&"))) {
    if (FIELDS.includes(field)) $(field).value = value;
  }
  [ring.x, ring.y] = [Number($("mapX").value), Number($("mapY").value)];
  return decodeURIComponent(name);
}

function writeAddress() {
  const changed = FIELDS.filter((field) => $(field).value !== $(field).defaultValue);
  const fields = changed.map((field) => `&${field}=${encodeURIComponent($(field).value)}`);
  history.replaceState(null, "", `#${encodeURIComponent(model.name)}${fields.join("")}`);
}

const whole = (input) => Math.max(0, Math.trunc(Number(input.value)) || 0);
const range = (count, first = 0) => Array.from({ length: count }, (_, i) => first + i);
const sizes = (spec) => spec.tensor_shape.dim.map((axis) => Number(axis.size));

// Images ------------------------------------------------------------------------------------

// Draws an image, nested lists (height, width, channels) in [0, 255], each pixel once.
function show(canvas, image, side = 0) {
  const height = image.length, width = image[0].length;
  canvas.height = height;
  canvas.width = width;
  if (side) canvas.style.width = `${side}px`;
  canvas.getContext("2d").putImageData(pixels(image), 0, 0);
}

function pixels(image) {
  const height = image.length, width = image[0].length, data = new ImageData(width, height);
  let at = 0;
  for (const line of image) {
    for (const pixel of line) {
      const [r, g, b] = pixel.length === 3 ? pixel : [pixel[0], pixel[0], pixel[0]];
      data.data.set([r, g, b, 255], at);
      at += 4;
    }
  }
  return data;
}

function fill(grid, images) {
  grid.replaceChildren(...images.map((image) => {
    const canvas = document.createElement("canvas");
    show(canvas, image);
    return canvas;
  }));
}

// Draw --------------------------------------------------------------------------------------

const draw = card("draw", async (of) => {
  const seed = range(24, whole($("first")));
  if (!("sample_png" in of.endpoints)) {
    fill($("samples"), await predict(of, "sample", { seed }));
    return;
  }
  const files = await predict(of, "sample_png", { seed });
  $("samples").replaceChildren(...files.map((file, i) => {
    const image = new Image();
    image.src = `data:image/png;base64,${file.b64}`;
    image.alt = `seed ${seed[i]}`;
    image.title = image.alt;
    return image;
  }));
});

// Saves the samples as one PNG file, each pixel once.
function download() {
  const images = [...$("samples").children], columns = 8, { width, height } = model;
  const sheet = document.createElement("canvas");
  sheet.width = columns * width;
  sheet.height = Math.ceil(images.length / columns) * height;
  const context = sheet.getContext("2d");
  images.forEach((image, i) => {
    context.drawImage(image, (i % columns) * width, Math.floor(i / columns) * height);
  });
  const link = document.createElement("a");
  link.href = sheet.toDataURL("image/png");
  link.download = `${model.name}-${whole($("first"))}.png`;
  link.click();
}

// Latent map --------------------------------------------------------------------------------

const REACH = 2.6; // standard deviations that the plane shows on each side
const SIDE = 13; // images along each side of it
const ring = { x: 0.5, y: 0.5 }; // in [0, 1], from the left and from the top

const latentsAt = (x, y) => [(2 * x - 1) * REACH, (1 - 2 * y) * REACH];

const drawMap = card("map", async (of) => {
  const centres = range(SIDE).map((i) => (i + 0.5) / SIDE);
  const latents = centres.flatMap((y) => centres.map((x) => latentsAt(x, y)));
  const images = await predict(of, "decode", { latents });
  const atlas = $("atlas"), { width, height } = of;
  atlas.width = SIDE * width;
  atlas.height = SIDE * height;
  atlas.style.width = "252px";
  const context = atlas.getContext("2d");
  images.forEach((image, i) => {
    context.putImageData(pixels(image), (i % SIDE) * width, Math.floor(i / SIDE) * height);
  });
});

const decodePoint = card("map", async (of) => {
  const latents = latentsAt(ring.x, ring.y);
  $("ring").style.left = `${100 * ring.x}%`;
  $("ring").style.top = `${100 * ring.y}%`;
  const [image] = await predict(of, "decode", { latents: [latents] });
  show($("decoded"), image, 168);
  $("point").value = latents.map((value) => value.toFixed(2)).join(", ");
});

function moveRing(x, y) {
  ring.x = Math.min(1, Math.max(0, x));
  ring.y = Math.min(1, Math.max(0, y));
  $("mapX").value = ring.x.toFixed(3);
  $("mapY").value = ring.y.toFixed(3);
  writeAddress();
  decodePoint();
}

dragging($("plane"), (x, y) => moveRing(x, y));
$("plane").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const [x, y] = moves[event.key];
  moveRing(ring.x + 0.02 * x, ring.y + 0.02 * y);
});

// Calls `act` with the place in [0, 1] x [0, 1] while the pointer is down on an element, and with
// whether it was just put there.
function dragging(element, act) {
  const tell = (event, starts) => {
    const box = element.getBoundingClientRect();
    act((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, starts);
  };
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    tell(event, true);
  });
  element.addEventListener("pointermove", (event) => {
    // Not a stroke that began elsewhere, which has no last place here.
    if (element.hasPointerCapture(event.pointerId)) tell(event, false);
  });
}

// Between two seeds -------------------------------------------------------------------------

const ends = { seeds: "", latents: [] };

async function findEnds(of) {
  const seed = [whole($("seedA")), whole($("seedB"))];
  const key = `${of.name} ${seed} ${$("labels").value}`;
  if (ends.seeds === key) return;
  ends.seeds = "";
  let images;
  if ("latents" in of.endpoints) {
    ends.latents = await predict(of, "latents", { seed });
    images = await predict(of, "decode", { latents: ends.latents });
  } else {
    images = await predict(of, "sample", { seed });
    ends.latents = await predict(of, "encode", { images });
  }
  show($("ends-a"), images[0], 84);
  show($("ends-b"), images[1], 84);
  ends.seeds = key;
}

const morph = card("morph", async (of) => {
  await findEnds(of);
  const t = Number($("slide").value), [a, b] = ends.latents;
  const latents = [a.map((value, i) => (1 - t) * value + t * b[i])];
  const [image] = await predict(of, "decode", { latents });
  show($("between"), image, 168);
  $("share").value = `${Math.round(100 * t)} % of the way`;
});

// Reconstruct, judge and complete ------------------------------------------------------------

// A pasted image goes to every pad that is shown.
document.addEventListener("paste", (event) => {
  const item = [...event.clipboardData.items].find(({ type }) => type.startsWith("image/"));
  if (!item) return;
  const file = item.getAsFile();
  for (const [name, pad] of pads) {
    if (!$(name).hidden) pad.load(file).catch((error) => report(pad, error.message));
  }
});

const rebuild = card("reconstruct", async (of) => {
  const [image] = await predict(of, "reconstruct", { images: [rebuildPad.image] });
  show($("rebuilt"), image, 168);
});

const complete = card("complete", async (of) => {
  const count = 8, { image, keep } = completePad, first = Math.floor(Math.random() * 2 ** 31);
  $("waiting").value = "drawing …";
  try {
    const images = await predict(of, "complete", {
      images: Array(count).fill(image),
      mask: Array(count).fill(keep.map((line) => line.map((kept) => [kept]))),
      seed: range(count, first),
    });
    if (of === model) fill($("completions"), images);
  } finally { $("waiting").value = ""; }
});

const rebuildPad = new Pad("reconstruct", ["paint", "erase"], () => rebuild());
const judge = card("judge", judgeImage);
const judgePad = new Pad("judge", ["paint", "erase"], () => judge());
const completePad = new Pad("complete", ["paint", "erase", "hide"], () => {});
const pads = [["reconstruct", rebuildPad], ["judge", judgePad], ["complete", completePad]];

// Choosing a model --------------------------------------------------------------------------

const takes = (name, ...inputs) => {
  const endpoint = model.endpoints[name];
  const given = endpoint && Object.keys(endpoint.inputs).filter((input) => input !== "labels");
  return Boolean(endpoint) && given.length === inputs.length && inputs.every((i) => given.includes(i));
};

const choose = latest(async () => {
  const name = $("model").value;
  const found = await ask(`/v1/models/${encodeURIComponent(name)}/metadata`);
  const endpoints = found.metadata.signature_def.signature_def;
  const all = Object.entries(endpoints);
  const pictures = all.flatMap(([, e]) => [e.inputs.images, e.outputs.images])
    .find((spec) => spec && sizes(spec).length === 4 && Math.min(...sizes(spec).slice(1)) > 0);
  const [, height, width, channels] = pictures ? sizes(pictures) : [0, 0, 0, 0];
  model = { name, endpoints, height, width, channels };
  problems.clear();
  report(choose, "");
  const colour = channels === 3 ? "colour" : "grey";
  $("about").value = pictures ? `${height} × ${width} pixels, ${colour}` : "no images";
  showClasses(all.some(([, endpoint]) => "labels" in endpoint.inputs) ? classesOf(name) : 0);

  const samples = Boolean(pictures) && takes("sample", "seed");
  const decodes = Boolean(pictures) && takes("decode", "latents");
  const demos = {
    draw: samples,
    map: decodes && sizes(model.endpoints.decode.inputs.latents)[1] === 2,
    morph: samples && decodes && (takes("latents", "seed") || takes("encode", "images")),
    reconstruct: Boolean(pictures) && takes("reconstruct", "images"),
    judge: Boolean(pictures) && judges(),
    complete: Boolean(pictures) && takes("complete", "images", "mask", "seed"),
  };
  for (const [demo, there] of Object.entries(demos)) $(demo).hidden = !there;
  if (demos.judge) describeJudge();
  for (const [demo, pad] of pads) {
    pad.suit(samples);
    if (pictures) { pad.clear(); pad.refresh(); }
    if (demos[demo]) {
      pad.example(samples).catch((error) => report(pad, error.message));
    }
  }
  $("completions").replaceChildren();
  document.body.dataset.model = name;
  writeAddress();
  refreshDemos(demos);
});

const classesOf = (name) => listed.get(name).num_classes ?? 10;

// One button per class; the chosen one stays pressed.
function showClasses(count) {
  $("class").hidden = !count;
  $("labels").value = Math.min(whole($("labels")), Math.max(count - 1, 0));
  $("class").replaceChildren(...range(count).map((label) => {
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", () => {
      $("labels").value = label;
      $("labels").dispatchEvent(new Event("input"));
    });
    return button;
  }));
  markClass();
}

function markClass() {
  for (const button of $("class").children) {
    button.setAttribute("aria-pressed", String(button.textContent === $("labels").value));
  }
}

function refreshDemos(demos) {
  const refresh = { draw: [draw], map: [drawMap, decodePoint], morph: [morph], reconstruct: [rebuild],
    judge: [judge] };
  for (const [demo, runs] of Object.entries(refresh)) {
    if (demos ? demos[demo] : !$(demo).hidden) runs.forEach((run) => run());
  }
}

$("model").addEventListener("change", choose);
$("labels").addEventListener("input", () => { markClass(); refreshDemos(); });
$("first").addEventListener("input", draw);
$("more").addEventListener("click", () => {
  $("first").value = whole($("first")) + 24;
  $("first").dispatchEvent(new Event("input"));
});
$("download").addEventListener("click", download);
for (const id of FIELDS) $(id).addEventListener("input", writeAddress);
for (const id of ["seedA", "seedB", "slide"]) $(id).addEventListener("input", morph);
$("run-complete").addEventListener("click", complete);

ask("/models").then(({ models }) => {
  if (!models.length) {
    $("about").value = "The repository is empty: tfgen export NAME --out DIR.";
    return;
  }
  for (const found of models) listed.set(found.name, found);
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  const wish = readAddress();
  const [best] = models.filter(({ quality }) => quality)
    .sort((a, b) => a.quality - b.quality).concat(models);
  $("model").value = listed.has(wish) ? wish : best.name;
  choose();
}).catch((error) => report("models", error.message));
