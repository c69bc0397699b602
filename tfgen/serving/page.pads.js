"use strict";
// The part of the page on which images are painted; page.js has the rest.

// A small image to paint on, some of it perhaps hidden; calls `changed` after each stroke.
class Pad {
  constructor(name, tools, changed) {
    this.box = $(`${name}-pad`);
    this.canvas = document.createElement("canvas");
    this.cover = document.createElement("canvas");
    this.box.replaceChildren(this.canvas, this.cover);
    this.changed = changed;
    this.tool = tools[0];
    const half = tools.includes("hide") ? ["hide half"] : [];
    this.buttons = [...tools, ...half, "sample", "upload", "invert", "clear"]
      .map((tool) => this.button(tool, tools.includes(tool)));
    this.colour = document.createElement("input");
    Object.assign(this.colour, { type: "color", value: "#d2322d", ariaLabel: "Colour to paint with" });
    $(`${name}-tools`).replaceChildren(...this.buttons, this.colour);
    dragging(this.box, (x, y, starts) => this.stroke(x, y, starts));
    this.mark();
  }

  button(tool, stays) {
    const button = document.createElement("button");
    button.textContent = tool;
    button.addEventListener("click", () => {
      if (stays) { this.tool = tool; this.mark(); } else this.actOn(tool);
    });
    return button;
  }

  mark() {
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(button.textContent === this.tool));
    }
  }

  async actOn(tool) {
    try { await this.act(tool); report(this, ""); } catch (error) { report(this, error.message); }
  }

  async act(name) {
    this.touched = true;
    if (name === "clear") this.clear();
    if (name === "invert") {
      this.image = this.image.map((line) => line.map((pixel) => pixel.map((value) => 255 - value)));
    }
    if (name === "upload") {
      const file = await chosenFile();
      if (file) await this.load(file);
      return;
    }
    if (name === "hide half") {
      this.keep.forEach((line, y) => line.fill(y < this.keep.length / 2));
    }
    if (name === "sample") {
      const of = model, seed = [Math.floor(Math.random() * 2 ** 31)];
      const [image] = await predict(of, "sample", { seed });
      if (of !== model) return;
      this.image = image;
    }
    this.refresh();
    this.changed();
  }

  // Shows the tools that suit the chosen model. Ink on paper is inverted for models of bright digits.
  suit(samples) {
    const grey = model.channels === 1;
    const hidden = { sample: !samples, invert: !grey };
    for (const button of this.buttons) button.hidden = hidden[button.textContent] ?? false;
    this.colour.hidden = grey;
  }

  // Opens with an image to work on, half of it hidden where that is what the card is about.
  async example(samples) {
    this.clear();
    this.touched = false;
    const of = model;
    if (samples) {
      const [image] = await predict(of, "sample", { seed: [1] });
      if (of !== model || this.touched) return;
      this.image = image;
    } else {
      const tool = this.tool, corners = [[0.3, 0.25], [0.7, 0.25], [0.45, 0.8]];
      this.tool = "paint";
      corners.slice(1).forEach(([x, y], i) => this.line(...corners[i], x, y));
      this.tool = tool;
    }
    if (this.buttons.some((button) => button.textContent === "hide half")) {
      this.keep.forEach((line, y) => line.fill(y < this.keep.length / 2));
    }
    this.refresh();
    this.changed();
  }

  // Fits an image file into the model's size.
  async load(file) {
    const of = model, { height, width, channels } = of;
    const bitmap = await createImageBitmap(file);
    if (of !== model) return;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const scale = Math.min(width / bitmap.width, height / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    context.imageSmoothingQuality = "high";
    context.fillStyle = background() ? "white" : "black";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    const { data } = context.getImageData(0, 0, width, height);
    const pixel = (at) => {
      const colour = [...data.slice(at, at + 3)];
      const grey = Math.round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]);
      return channels === 3 ? colour : [grey];
    };
    this.touched = true;
    this.clear();
    this.image = range(height).map((y) => range(width).map((x) => pixel(4 * (y * width + x))));
    this.refresh();
    this.changed();
  }

  clear() {
    const { height, width, channels } = model;
    this.image = range(height).map(() => range(width).map(() => Array(channels).fill(background())));
    this.keep = range(height).map(() => Array(width).fill(true));
  }

  // Goes in a straight line from where the stroke was last; a fast pointer tells few places.
  stroke(x, y, starts) {
    this.touched = true;
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
