"use strict";
// The page of `tfgen serve`. It knows models only through TF Serving's own metadata and :predict;
// each demo shows where a model has the endpoints that it needs.

const $ = (id) => document.getElementById(id);
let model = { name: "", endpoints: {}, height: 0, width: 0, channels: 0 }; // the chosen one

const listed = new Map(); // {name: what /models tells about it}
let mostRows = Infinity; // that the server takes in one request
let leaving = new AbortController(); // cuts off what was asked of the chosen model

// The server --------------------------------------------------------------------------------

async function ask(path, body) {
  const options = body && { method: "POST", body: JSON.stringify(body), signal: leaving.signal };
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ error: "an answer without JSON, or with NaN" }));
  if (!response.ok || answer.error) throw new Error(answer.error || `HTTP ${response.status}`);
  return answer;
}

// Returns the rows of an endpoint's only output. Throws when another model has been chosen
// meanwhile, so that nothing of the one before is shown.
async function predict(of, signature, inputs) {
  const rows = Object.values(inputs)[0].length, parts = [];
  if ("labels" in of.endpoints[signature].inputs) {
    inputs = { ...inputs, labels: Array(rows).fill(whole($("labels"))) };
  }
  const path = `v1/models/${encodeURIComponent(of.name)}:predict`;
  for (let from = 0; from < rows; from += mostRows) {
    const cut = ([name, all]) => [name, all.slice(from, from + mostRows)];
    const part = Object.fromEntries(Object.entries(inputs).map(cut));
    parts.push(ask(path, { signature_name: signature, inputs: part }));
  }
  const answers = await Promise.all(parts);
  if (of !== model) throw new Error("Another model was chosen.");
  return answers.flatMap(({ outputs }) => outputs);
}

const problems = new Map(); // what went wrong last in each piece of work

// Shows the newest problem that its own work has not yet got over; an empty one says that it has.
function report(work, problem) {
  problems.delete(work);
  if (problem) problems.set(work, problem);
  $("problem").textContent = [...problems.values()].at(-1) ?? "";
  $("problem").hidden = !problems.size;
}

// Does `work(model)` and reports under `owner` how it went, unless another model was chosen.
async function run(owner, work) {
  const of = model;
  let problem = "";
  try { await work(of); } catch (error) { problem = error.message; }
  if (of === model) report(owner, problem);
}

// Runs `work` once at a time; calls meanwhile lead to one more, with the newest state.
function latest(work) {
  let running = false, again = false;
  return async () => {
    if (running) { again = true; return; }
    running = true;
    do {
      again = false;
      await run(work, work);
    } while (again);
    running = false;
  };
}

// The work of a card, which a model chosen meanwhile may not have.
const card = (id, work) => latest((of) => ($(id).hidden ? undefined : work(of)));

// The address holds the state, so that it can be kept and sent: #model&first=24&labels=3.
const FIELDS = ["first", "labels", "seedA", "seedB", "slide", "mapX", "mapY"];

// Sets the fields and returns the model's name, "" if it cannot be read.
function readAddress() {
  const [name, ...fields] = location.hash.slice(1).split("&");
  const given = new URLSearchParams(fields.join("&"));
  for (const field of FIELDS) $(field).value = given.get(field) ?? $(field).defaultValue;
  placeRing(Number($("mapX").value), Number($("mapY").value));
  try { return decodeURIComponent(name); } catch { return ""; }
}

// Chooses the model of the address, or else this one.
function follow(otherwise) {
  const name = readAddress();
  $("model").value = listed.has(name) ? name : otherwise;
  choose();
}

let writing = 0; // the timer of the next change of the address

// Waits a little: some browsers refuse an address that changes more than 100 times in 30 seconds.
function writeAddress() {
  writing ||= setTimeout(() => {
    writing = 0;
    const changed = FIELDS.filter((field) => $(field).value !== $(field).defaultValue);
    const fields = changed.map((field) => `&${field}=${encodeURIComponent($(field).value)}`);
    const hash = `#${encodeURIComponent(model.name)}${fields.join("")}`;
    try { history.replaceState(null, "", hash); } catch { /* refused; the next change tells all */ }
  }, 400);
}

const whole = (input) => Math.max(0, Math.trunc(Number(input.value)) || 0);
const range = (count, first = 0) => Array.from({ length: count }, (_, i) => first + i);
const sizes = (spec) => spec.tensor_shape.dim.map((axis) => Number(axis.size));

// Draw --------------------------------------------------------------------------------------

const draw = card("draw", async (of) => {
  const first = whole($("first")), seed = range(24, first), nameOf = (i) => `seed ${seed[i]}`;
  if ("sample_png" in of.endpoints) {
    const files = await predict(of, "sample_png", { seed });
    $("samples").replaceChildren(...files.map((file, i) => {
      const image = new Image();
      image.src = `data:image/png;base64,${file.b64}`;
      image.alt = image.title = nameOf(i);
      return image;
    }));
  } else {
    fill($("samples"), await predict(of, "sample", { seed }), nameOf);
  }
  $("samples").dataset.file = `${of.name}-${first}.png`;
  $("download").disabled = false;
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
  link.download = $("samples").dataset.file;
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

function placeRing(x, y) {
  ring.x = Math.min(1, Math.max(0, x));
  ring.y = Math.min(1, Math.max(0, y));
  $("mapX").value = Number(ring.x.toFixed(3));
  $("mapY").value = Number(ring.y.toFixed(3));
}

function moveRing(x, y) {
  placeRing(x, y);
  decodePoint();
  writeAddress();
}

dragging($("plane"), (x, y) => moveRing(x, y));
$("plane").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const [x, y] = moves[event.key];
  moveRing(ring.x + 0.02 * x, ring.y + 0.02 * y);
});

// Between two seeds -------------------------------------------------------------------------

const ends = { seeds: "", latents: [] };

async function findEnds(of) {
  const seed = [whole($("seedA")), whole($("seedB"))];
  const keyNow = () => `${of.name} ${seed} ${$("labels").value}`, key = keyNow();
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
  ends.seeds = keyNow() === key ? key : ""; // not of two classes
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
    fill($("completions"), images, (i) => `completion ${i + 1}`);
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

async function endpointsOf(name) {
  try {
    const found = await ask(`v1/models/${encodeURIComponent(name)}/metadata`);
    return found.metadata.signature_def.signature_def;
  } catch (error) {
    // The list shows the model that is still there, if there is one.
    if ($("model").value === name) $("model").value = model.name || name;
    throw error;
  }
}

// Takes away what the model before has drawn and said.
function wipe() {
  for (const canvas of document.querySelectorAll("main canvas[id]")) {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }
  for (const output of document.querySelectorAll("main output[id]")) output.value = "";
  $("samples").replaceChildren();
  $("completions").replaceChildren();
  $("download").disabled = true;
  ends.seeds = own.of = "";
}

const choose = latest(async () => {
  const name = $("model").value, endpoints = await endpointsOf(name);
  const all = Object.entries(endpoints);
  const pictures = all.flatMap(([, e]) => [e.inputs.images, e.outputs.images])
    .find((spec) => spec && sizes(spec).length === 4 && Math.min(...sizes(spec).slice(1)) > 0);
  const [, height, width, channels] = pictures ? sizes(pictures) : [0, 0, 0, 0];
  model = { name, endpoints, height, width, channels };
  leaving.abort(); // so that the old model's work need not wait
  leaving = new AbortController();
  problems.clear();
  report(choose, "");
  wipe();
  const colour = channels === 3 ? "colour" : "grey";
  $("about").value = pictures ? `${height} × ${width} pixels, ${colour}` : "no images";
  showClasses(all.some(([, endpoint]) => "labels" in endpoint.inputs) ? classesOf(name) : 0);

  const samples = Boolean(pictures) && takes("sample", "seed");
  const decodes = Boolean(pictures) && takes("decode", "latents");
  const demos = {
    draw: samples,
    map: samples && decodes && sizes(model.endpoints.decode.inputs.latents)[1] === 2,
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
    if (demos[demo]) run(pad, () => pad.example(samples));
  }
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

ask("models").then(({ models, max_batch_size }) => {
  if (!models.length) {
    $("about").value = "No model is loaded; the server's log says why, "
      + "or export one: tfgen export NAME --out DIR.";
    return;
  }
  mostRows = max_batch_size;
  for (const found of models) listed.set(found.name, found);
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  const [best] = models.filter(({ quality }) => quality)
    .sort((a, b) => a.quality - b.quality).concat(models);
  follow(best.name);
  window.addEventListener("hashchange", () => follow($("model").value));
}).catch((error) => {
  $("about").value = "";
  report("models", error.message);
});
