"use strict";
// The part of the page that tells what a model thinks of an image: its likelihood or its score, and
// for a pixel model how much each pixel surprised it. page.js has the rest.

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
    + (map ? " The map shows its surprise: bright pixels are those that it did not expect." : "");
  $("judge-map").hidden = !map;
}

// The log-likelihood of each image in nats, or a discriminator's logit.
function valuesOf(of, images) {
  const likelihood = of.endpoints.log_likelihood;
  if (!likelihood) return predict(of, "score", { images });
  const seed = "seed" in likelihood.inputs ? { seed: range(images.length) } : {};
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
  return `log p(x) ${sign} ${value.toFixed(1)} nats: ${most}${bits.toFixed(3)} bits per ${each}`;
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
