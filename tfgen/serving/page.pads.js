"use strict";
// The part of the page that shows images, lets them be painted and judges them; page.js has the rest.

// Draws an image, nested lists (height, width, channels) in [0, 255], each pixel once.
function show(canvas, image, side = 0) {
  const height = image.length, width = image[0].length;
  canvas.height = height;
  canvas.width = width;
  if (side) canvas.style.width = `${side}px`;
  canvas.role = "img";
  canvas.ariaLabel ||= canvas.parentNode?.id.replace("-", " ") || "image";
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

function fill(grid, images, nameOf) {
  grid.replaceChildren(...images.map((image, i) => {
    const canvas = document.createElement("canvas");
    canvas.ariaLabel = nameOf(i);
    show(canvas, image);
    return canvas;
  }));
}

// A small image to paint on, some of it perhaps hidden; calls `changed` after each stroke.
class Pad {
  constructor(name, tools, changed) {
    this.box = $(`${name}-pad`);
    this.canvas = document.createElement("canvas");
    this.cover = document.createElement("canvas");
    this.box.replaceChildren(this.canvas, this.cover);
    this.changed = changed;
    this.tools = tools;
    this.tool = tools[0];
    const half = tools.includes("hide") ? ["hide half"] : [];
    this.buttons = [...tools, ...half, "sample", "upload", "invert", "clear"]
      .map((tool) => this.button(tool));
    this.colour = document.createElement("input");
    Object.assign(this.colour, { type: "color", value: "#d2322d", ariaLabel: "Colour to paint with" });
    $(`${name}-tools`).replaceChildren(...this.buttons, this.colour);
    dragging(this.box, (x, y, starts) => this.stroke(x, y, starts));
    this.mark();
  }

  button(tool) {
    const button = document.createElement("button");
    button.textContent = tool;
    button.addEventListener("click", () => {
      if (this.tools.includes(tool)) { this.tool = tool; this.mark(); }
      else run(this, () => this.act(tool));
    });
    return button;
  }

  // Only tools that stay chosen can be pressed.
  mark() {
    for (const button of this.buttons) {
      const tool = button.textContent;
      if (this.tools.includes(tool)) button.setAttribute("aria-pressed", String(tool === this.tool));
    }
  }

  async act(name) {
    if (name === "hide half") this.hideHalf();
    else if (!(await this.change(name))) return;
    this.refresh();
    this.changed();
  }

  // Returns whether there is something new to show. A change takes the turn from a pending answer.
  async change(name) {
    if (name === "upload") {
      const file = await chosenFile();
      if (file) await this.load(file);
      return false;
    }
    const turn = this.turn = {};
    if (name === "clear") this.clear();
    if (name === "invert") this.invert();
    if (name === "sample") {
      const seed = [Math.floor(Math.random() * 2 ** 31)];
      const [image] = await predict(model, "sample", { seed });
      if (turn !== this.turn) return false;
      this.put(image);
    }
    return true;
  }

  // Shows the tools that suit the chosen model. Ink on paper is inverted for models of bright digits.
  suit(samples) {
    const grey = model.channels === 1;
    const hidden = { sample: !samples, invert: !grey };
    for (const button of this.buttons) button.hidden = hidden[button.textContent] ?? false;
    this.colour.hidden = grey;
  }

  // Opens with an image to work on, half hidden if the card is about that.
  async example(samples) {
    this.clear();
    const turn = this.turn = {};
    const hide = () => this.tools.includes("hide") && this.hideHalf();
    if (samples) {
      hide(); // what is hidden meanwhile stays so
      this.refresh();
      const [image] = await predict(model, "sample", { seed: [1] });
      if (turn !== this.turn) return;
      this.put(image);
    } else {
      const tool = this.tool, corners = [[0.3, 0.25], [0.7, 0.25], [0.45, 0.8]];
      this.tool = "paint";
      corners.slice(1).forEach(([x, y], i) => this.line(...corners[i], x, y));
      this.tool = tool;
      hide();
    }
    this.refresh();
    this.changed();
  }

  // Fits an image file into the model's size.
  async load(file) {
    const of = model, { height, width, channels } = of, turn = this.turn = {};
    const bitmap = await createImageBitmap(file);
    if (of !== model || turn !== this.turn) return;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const scale = Math.min(width / bitmap.width, height / bitmap.height);
    const [w, h] = [bitmap.width, bitmap.height].map((side) => Math.round(side * scale) || 1);
    const [left, top] = [(width - w) >> 1, (height - h) >> 1];
    context.imageSmoothingQuality = "high";
    context.fillStyle = background() ? "white" : "black";
    context.fillRect(0, 0, width, height);
    context.fillStyle = "white"; // behind transparent pixels
    context.fillRect(left, top, w, h);
    context.drawImage(bitmap, left, top, w, h);
    const { data } = context.getImageData(0, 0, width, height);
    const pixel = (at) => {
      const colour = [...data.slice(at, at + 3)];
      const grey = Math.round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]);
      return channels === 3 ? colour : [grey];
    };
    this.put(range(height).map((y) => range(width).map((x) => pixel(4 * (y * width + x)))),
      [left, top, left + w, top + h]);
    this.refresh();
    this.changed();
  }

  clear() {
    const { height, width, channels } = model;
    this.put(range(height).map(() => range(width).map(() => Array(channels).fill(background()))));
    this.keep = range(height).map(() => Array(width).fill(true));
  }

  // Takes an image; what is outside the frame (left, top, right, bottom) is margin.
  put(image, frame = [0, 0, model.width, model.height]) {
    this.image = image;
    this.frame = frame;
  }

  invert() {
    const [left, top, right, bottom] = this.frame;
    for (const line of this.image.slice(top, bottom)) {
      for (let x = left; x < right; x++) line[x] = line[x].map((value) => 255 - value);
    }
  }

  hideHalf() {
    this.keep.forEach((line, y) => line.fill(y < this.keep.length / 2));
  }

  // Goes straight from the stroke's last place; a fast pointer tells few.
  stroke(x, y, starts) {
    if (this.tool !== "hide") this.turn = {};
    this.line(...(starts ? [x, y] : this.last), x, y);
    this.last = [x, y];
    this.refresh();
    this.changed();
  }

  line(fromX, fromY, x, y) {
    const steps = Math.ceil(Math.hypot(x - fromX, y - fromY) * 2 * model.width) || 1;
    for (let i = 1; i <= steps; i++) {
      this.dab(fromX + (x - fromX) * i / steps, fromY + (y - fromY) * i / steps);
    }
  }

  dab(x, y) {
    const { height, width, channels } = model, radius = this.tool === "paint" ? 1.3 : 2.2;
    const part = (at) => parseInt(this.colour.value.slice(at, at + 2), 16);
    const ink = channels === 1 ? [255] : [1, 3, 5].map(part);
    const reach = radius * Math.max(width, height) / 28;
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const away = Math.hypot(column + 0.5 - x * width, row + 0.5 - y * height);
        if (away > reach) continue;
        this.keep[row][column] = this.tool !== "hide";
        if (this.tool === "paint") this.image[row][column] = ink;
        if (this.tool === "erase") this.image[row][column] = Array(channels).fill(background());
      }
    }
  }

  refresh() {
    show(this.canvas, this.image);
    this.cover.width = model.width;
    this.cover.height = model.height;
    const context = this.cover.getContext("2d");
    context.fillStyle = getComputedStyle(document.body).getPropertyValue("--hidden");
    this.keep.forEach((line, y) => line.forEach((kept, x) => {
      if (!kept) context.fillRect(x, y, 1, 1);
    }));
  }
}

// Calls `act` with the place in [0, 1] x [0, 1] while the pointer is down on an element, and with
// whether it was just put there.
function dragging(element, act) {
  const tell = (event, starts) => {
    const box = element.getBoundingClientRect();
    act((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, starts);
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return; // not the first of a mouse, nor a first finger
    element.setPointerCapture(event.pointerId);
    tell(event, true);
  });
  element.addEventListener("pointermove", (event) => {
    // Not a stroke that began elsewhere, which has no last place here.
    if (element.hasPointerCapture(event.pointerId)) tell(event, false);
  });
}

// A pasted image goes to every pad that is shown.
document.addEventListener("paste", (event) => {
  const item = [...event.clipboardData.items].find(({ type }) => type.startsWith("image/"));
  if (!item) return;
  const file = item.getAsFile();
  for (const [name, pad] of pads) {
    if (!$(name).hidden) run(pad, () => pad.load(file));
  }
});

// White paper for models of colour, black for those of bright digits.
const background = () => (model.channels === 1 ? 0 : 255);

function chosenFile() {
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept: "image/*" });
  return new Promise((resolve) => {
    input.addEventListener("change", () => resolve(input.files[0]));
    input.addEventListener("cancel", () => resolve(null));
    input.click();
  });
}

// What a model thinks of an image: its likelihood or its score, and how much each pixel surprised it.

const COMPARED = 8; // of the model's own samples, whose mean stands next to the value
const own = { of: "", mean: 0 };

// Dark to bright, as (red, green, blue).
const HEAT = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];

const judges = () => takes("log_likelihood", "images") || takes("log_likelihood", "images", "seed")
  || takes("score", "images");

// What the card says depends on the model.
function describeJudge() {
  const likelihood = "log_likelihood" in model.endpoints, map = takes("log_likelihood_map", "images");
  $("judge-title").textContent = likelihood ? "How likely is it?" : "Real or drawn?";
  $("judge-text").textContent = "Paint, upload or paste an image, and see "
    + (likelihood ? "how probable the model finds it." : "what the GAN's judge takes it for.")
    + ($("class").hidden ? "" : " It is judged as an image of the class chosen above.")
    + (map ? " The map shows its surprise: bright pixels are those that it did not expect." : "");
  $("judge-map").hidden = !map;
}

// The log-likelihood of each image in nats, or a discriminator's logit.
function valuesOf(of, images) {
  const likelihood = of.endpoints.log_likelihood;
  if (!likelihood) return predict(of, "score", { images });
  // Not the noise that drew them.
  const seed = "seed" in likelihood.inputs ? { seed: range(images.length, 1e9) } : {};
  return predict(of, "log_likelihood", { images, ...seed });
}

async function meanOfOwn(of) {
  const keyNow = () => `${of.name} ${$("labels").value}`, key = keyNow();
  if (own.of !== key) {
    const values = await valuesOf(of, await predict(of, "sample", { seed: range(COMPARED) }));
    own.mean = values.reduce((sum, value) => sum + value) / COMPARED;
    own.of = keyNow() === key ? key : "";
  }
  return own.mean;
}

async function judgeImage(of) {
  const image = judgePad.image, likelihood = of.endpoints.log_likelihood;
  const [value] = await valuesOf(of, [image]);
  $("value").value = likelihood ? nats(of, value) : logit(value, listed.get(of.name).score_border);
  if (takes("log_likelihood_map", "images")) {
    const [map] = await predict(of, "log_likelihood_map", { images: [image] });
    const most = showSurprise($("surprise"), map);
    $("surprise-scale").value = `0 to ${most.toFixed(1)} bits`;
  }
  if (!takes("sample", "seed")) return;
  const mean = (await meanOfOwn(of)).toFixed(likelihood ? 0 : 2);
  const kind = likelihood && "seed" in likelihood.inputs ? "mean images" : "images"; // a VAE's
  $("own").value = `The model's own ${kind}: ${mean} on average.`;
}

function nats(of, value) {
  const bound = "seed" in of.endpoints.log_likelihood.inputs, { height, width, channels } = of;
  const bits = -value / Math.log(2) / (height * width * channels);
  const each = channels === 1 ? "pixel" : "pixel and channel";
  const [sign, most] = bound ? ["≥", "at most "] : ["=", ""];
  return `log p(x${$("class").hidden ? "" : " | class"}) ${sign} ${value.toFixed(1)} nats: ${most}${bits.toFixed(3)} bits per ${each}`;
}

// A critic has no border between real and drawn images; it only ranks them.
function logit(value, border = 0) {
  const verdict = value > border ? "taken for a real image" : "taken for a drawn one";
  return `${value.toFixed(2)}: ${border === null ? "the higher, the more real" : verdict}`;
}

// Draws -log2 p of each pixel, summed over channels, and returns the largest.
function showSurprise(canvas, map) {
  const bits = map.map((line) => line.map((pixel) => pixel.reduce((sum, v) => sum - v, 0) / Math.log(2)));
  const most = Math.max(...bits.flat());
  show(canvas, bits.map((line) => line.map((value) => heat(value / (most || 1)))), 168);
  return most;
}

function heat(share) {
  const place = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
  const below = Math.min(Math.floor(place), HEAT.length - 2), part = place - below;
  return HEAT[below].map((value, i) => value + part * (HEAT[below + 1][i] - value));
}
