"""Whether the tests notice small faults: each mutant changes one line, and its tests must fail.

A mutant is a textual change of one file of tfgen, applied in a copy of the project. It is killed
when the tests named next to it fail, and survives when they pass. `tests/test_mutants.py` holds
that every change still fits its file in exactly one place.

    python benchmarks/mutants.py --list
    python benchmarks/mutants.py --only noise.py pixels.py
    python benchmarks/mutants.py --numbers 3 17
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import common

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 900  # of one mutant; one that is not decided by then is reported so

PIXELS = "test_pixel_models.py test_pixel_sampling.py"
PIXEL_MODELS = f"{PIXELS} -k 'sum_to_one or future or naive or allowed or masked'"
GATED = f"{PIXELS} -k 'gate_weighs or ((sum_to_one or future or naive) and (gated or attentive))'"
RESIDUAL = f"{PIXELS} -k '(sum_to_one or future or naive or reference) and residual'"
RECURRENT = f"{PIXELS} -k '(sum_to_one or future or naive) and (row or diagonal)'"
ATTENTION = f"{PIXELS} -k '(future or naive or allowed) and attentive'"
TOKENS = f"{PIXELS} -k 'orders or order_in or call_gives or (naive and turned)'"

# {(file of tfgen, tests): [(text, text that replaces it), ...]}
MUTANTS: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("noise.py", "test_noise.py"): [
        ("for _ in range(10):", "for _ in range(9):"),
        ("xor(xor(high1, c1), k0), low1", "xor(xor(high0, c1), k0), low1"),
        ("k1 += tf.constant(_KEY_STEPS[1], tf.uint32)", "k1 += tf.constant(1, tf.uint32)"),
        ("stream = zero + tf.cast(stream, tf.uint32)", "stream = zero"),
        ("(block, zero, stream, zero))", "(zero, block, stream, zero))"),
        ("unit = (tf.cast(drawn, tf.float32) + 0.5)", "unit = (tf.cast(drawn, tf.float32))"),
        ("tf.constant(9, tf.uint32))", "tf.constant(8, tf.uint32))"),
        ("(c0, c1, stream, tf.ones_like(c0))", "(c0, c0, stream, tf.ones_like(c0))"),
        ("middle, tail)", "middle, -tail)"),
        ("r = 0.425**2 - q * q", "r = 0.425**2 + q * q"),
    ],
    ("pixels.py", "test_pixels.py"): [
        (
            "return (pixels + 1.0) * ((num_levels - 1) / 2.0)",
            "return pixels * ((num_levels - 1) / 2.0)",
        ),
        ("greys / np.float32(255.0)", "greys / np.float32(256.0)"),
        (
            "np.round(255.0 * np.arange(num_levels) / (num_levels - 1))",
            "(255.0 * np.arange(num_levels) / (num_levels - 1))",
        ),
        (
            "else tf.round(greys_to_levels(images, num_levels))",
            "else greys_to_levels(images, num_levels)",
        ),
        (
            "levels = tf.clip_by_value(tf.round(levels), 0.0, num_levels - 1.0)",
            "levels = tf.round(levels)",
        ),
        ("return greys * (2.0 / 255.0) - 1.0", "return greys * (1.0 / 255.0)"),
        ("return (pixels + 1.0) * 127.5", "return (pixels + 1.0) * 128.0"),
        ("else greys * ((num_levels - 1) / 255.0)", "else greys * (num_levels / 255.0)"),
        (
            "return -log_p / (math.prod(image_shape) * math.log(2.0))",
            "return -log_p / math.prod(image_shape)",
        ),
        ("labels.max() >= num_classes", "labels.max() > num_classes"),
        ("extra = np.setdiff1d(found, allowed)", "extra = np.setdiff1d(found, found)"),
    ],
    ("distributions/levels.py", "test_distributions.py"): [
        (
            "return levels * parameters - portable.softplus(parameters)",
            "return levels * parameters - portable.softplus(-parameters)",
        ),
        ("lowest, highest = level < 0.5,", "lowest, highest = level < -0.5,"),
        ("level > num_levels - 1.5", "level > num_levels - 0.5"),
        ("below + above + width", "below + above"),
        ("softplus((centred - 0.5) * inverse)", "softplus((centred + 0.5) * inverse)"),
        ("tf.nn.log_softmax(logits) + each", "logits + each"),
        ("-0.5 * tf.square((levels - mean) / scale)", "-tf.square((levels - mean) / scale)"),
        ("            - tf.math.log(scale)\n", ""),
        ("_clipped(raw_scale - 2.0, MIN_LOG_SCALE, MAX_LOG_SCALE)", "raw_scale - 2.0"),
        (
            "scale = tf.maximum(tf.exp(log_scale) * half_range, MIN_GAUSSIAN_SCALE)",
            "scale = tf.exp(log_scale) * half_range",
        ),
        ("return scale * (portable.softplus(ratio) -", "return scale * (tf.nn.relu(ratio) -"),
        (
            "mean = tf.clip_by_value(mean, 0.0, num_levels - 1.0)",
            "mean = tf.clip_by_value(mean, 0.0, num_levels - 2.0)",
        ),
    ],
    ("distributions/levels.py", "test_distributions.py -k draw"): [
        ("second = uniforms[:, 1]", "second = uniforms[:, 0]"),
        ("first < tf.sigmoid(logit / temperature)", "first < tf.sigmoid(logit)"),
        ("first < tf.sigmoid(logit / temperature)", "first > tf.sigmoid(logit / temperature)"),
        ("* reached[:, -1:] > reached", "* reached[:, -1:] < reached"),
    ],
    ("models/tokens.py", TOKENS): [
        ("tf.transpose(split, (0, 3, 1, 4, 2, 5))", "tf.transpose(split, (0, 3, 4, 1, 2, 5))"),
        (
            "return image[::-1, ::-1] if order & 1 else image",
            "return image[::-1] if order & 1 else image",
        ),
        ("if order & 4:", "if order & 8:"),
        ("np.argsort(self._sequences, 1).astype(np.int32)", "self._sequences"),
        (
            "return tf.argmax(tf.stack(first_hidden, 1), 1, tf.int32)",
            "return tf.argmin(tf.stack(first_hidden, 1), 1, tf.int32)",
        ),
        (
            "agreeing = tf.where(same, agreeing, never)",
            "agreeing = tf.where(same, agreeing, 0.0)",
        ),
    ],
    ("layers/masked.py", PIXEL_MODELS): [
        (
            "self.allowed[-1, columns // 2 + (not strict) :] = False",
            "self.allowed[-1, columns // 2 + 1 :] = False",
        ),
        (
            'self.first_row = -rows if mask == "vertical_A" else 1 - rows',
            "self.first_row = 1 - rows",
        ),
        ('1 if self.mask == "A" else 0)', "0)"),
        ('seen = index + (self.mask == "B")', "seen = index"),
    ],
    ("layers/basic.py", "test_pixel_models.py -k dropped"): [
        ("x * (256.0 / (256 - threshold))", "x"),
        (">= threshold, tf.shape(x))", "> threshold + 9, tf.shape(x))"),
        (
            "words = noise.bits(seeds, -(-count // 4), stream)",
            "words = noise.bits(seeds, -(-count // 4), 0)",
        ),
    ],
    ("models/pixel_cnn.py", GATED): [
        ("return a * keras.ops.sigmoid(b)", "return keras.ops.sigmoid(b)"),
        ("new_state.append((near, x))", "new_state.append((far, x))"),
        ("apply_left([far, near, x], kernel)", "apply_left([near, far, x], kernel)"),
        ("return known\n", "return cache\n"),
    ],
    ("models/pixel_cnn.py", "test_pixel_models.py -k stream"): [
        ("2 * self.stream, 2 * self.stream + 1", "2 * self.stream, 2 * self.stream"),
    ],
    ("models/trunk.py", RESIDUAL): [
        ("apply_left([left, y], kernel)", "apply_left([y, left], kernel)"),
        ("        return recorded\n", "        return cache\n"),
    ],
    ("models/lstm_layers.py", RECURRENT): [
        (
            "return x + self.project(h + right), (h, c), (x, h)",
            "return x + self.project(h), (h, c), (x, h)",
        ),
        (
            "return left + keras.ops.pad(layers.cut(right, 1, 0, -1), "
            "[[0, 0], [1, 0], [0, 0], [0, 0]])",
            "return left + right",
        ),
        ("column = columns - 1 - step", "column = step"),
    ],
    ("models/attention.py", ATTENTION): [
        (
            "k, v = (tf.pad(y, [[0, 0], [1, 0], [0, 0]]) for y in before)",
            "k, v = (self._by_heads(y, places) for y in both)",
        ),
        (
            "seen = [tf.range(places) >= places - row * columns, tf.range(columns) < column]",
            "seen = [tf.range(places) >= places - row * columns, tf.range(columns) <= column]",
        ),
        ("tf.one_hot(column - 1,", "tf.one_hot(column,"),
        ("tf.concat([y[:, columns:], new], 1)", "tf.concat([new, y[:, columns:]], 1)"),
    ],
    ("models/sampler.py", "test_pixel_sampling.py -k 'fast_sampler and gated'"): [
        (
            "above = tf.concat([above, seen[None]], 0)[1:]",
            "above = tf.concat([above, above[-1:]], 0)[1:]",
        ),
        ("(*left, seen)[1:], belief, written", "left, belief, written"),
    ],
    ("models/token_networks.py", "test_pixel_sampling.py -k 'fast_sampler and gated'"): [
        ("hidden.append(keras.ops.elu(x))", "hidden.append(x)"),
    ],
    ("models/guidance.py", "test_guidance.py -k 'definition or naive or stronger or weak'"): [
        ("self.strength * (own - reference)", "self.strength * own"),
        ("self.strength * (own - reference)", "(own - reference)"),
        ("posterior + log_probs, 0)", "log_probs, 0)"),
        ("tf.cumsum(taken, 1, exclusive=True)", "tf.cumsum(taken, 1)"),
        ("belief.evidence + self._taken(log_probs, levels)", "belief.evidence"),
        ("tf.repeat(tf.range(self.classes), batch)", "tf.tile(tf.range(self.classes), [batch])"),
        ("[parameters, -parameters]", "[-parameters, parameters]"),
        ("logits[..., 1:] - logits[..., :1]", "logits[..., 1:]"),
        ("self.copies(reading))", "tf.zeros([self.classes * batch], tf.int32))"),
    ],
    ("models/autoregressive.py", "test_guidance.py -k 'definition or sum_to_one'"): [
        (
            "(levels, labels, reading, guided=True)\n            return",
            "(levels, labels, reading)\n            return",
        ),
        ("self._read(levels, labels, reading, guided=True)", "self._read(levels, labels, reading)"),
    ],
    ("models/pixel_ensemble.py", "test_pixel_ensemble.py"): [
        ("tf.nn.log_softmax(each), 0) - math.log(len(logits))", "each, 0)"),
        ("high, low = (tf.reduce_logsumexp(-portable", "high, low = (tf.reduce_sum(-portable"),
        ("tf.cumsum(each, -1, exclusive=True)", "tf.cumsum(each, -1)"),
        ("tf.where(before, each, 0.0)", "each"),
        ("tf.where(before, each, 0.0)", "tf.zeros_like(each)"),
        ("labels = tf.broadcast_to(tf.cast(reading, tf.int32), (batch,))", "pass"),
        ("above[self.rows_above - trunk.rows_above :]", "above[: trunk.rows_above]"),
        ("left[self.num_left - trunk.num_left :]", "left[: trunk.num_left]"),
        ("tuning.copy_weights(member, network)", "pass"),
    ],
    ("models/sampler.py", "test_pixel_sampling.py -k complet"): [
        ("return level if mask is None else tf.where(mask, kept, level)", "return level"),
        (
            "mask[:, None] & (patterns != kept[:, None])",
            "mask[:, None] & (patterns == kept[:, None])",
        ),
    ],
    ("models/autoregressive.py", "test_pixel_models.py -k 'orders or dropout or sum_to_one'"): [
        ("total - math.log(self.num_readings)", "total"),
        ("if training and self.dropout else None", "if self.dropout else None"),
    ],
    ("models/vae.py", "test_vae.py test_broken.py"): [
        (
            "math.log(k) - tf.reduce_logsumexp(log_weights, 1)",
            "-tf.reduce_logsumexp(log_weights, 1)",
        ),
        ("normal.loc[:, None] + normal.scale[:, None] * eps", "normal.loc[:, None] + eps"),
        (
            "eps = noise.normal(seeds, (count, self.latent_dim), stream=index)",
            "eps = noise.normal(seeds, (count, self.latent_dim))",
        ),
    ],
    ("models/vae.py", "test_vae.py -k temperature"): [
        ("eps = temperature * noise", "eps = temperature**2 * noise"),
    ],
    ("models/hierarchical_vae.py", "test_vae.py -k 'temperature or free_bits or dropout'"): [
        ("drawn = temperature * noise", "drawn = temperature**2 * noise"),
        ("tf.maximum(kl, self.free_bits) if training and self.free_bits else kl", "kl"),
        ("if training and self.free_bits else kl", "if self.free_bits else kl"),
        ("return kept / (1.0 - self.dropout)", "return kept"),
    ],
    ("models/ladder_layers.py", "test_vae.py -k dropout"): [
        ("masks[:, self.index, None", "masks[:, 0, None"),
    ],
    ("models/pixel_decoder.py", "test_vae.py -k warmup"): [
        ("tf.minimum(step / self.kl_warmup_steps, 1.0)", "step / self.kl_warmup_steps"),
        ("if not (training and self.kl_warmup_steps)", "if not self.kl_warmup_steps"),
    ],
    ("models/continuous.py", "test_priors.py"): [
        ("return a * s, s * (1.0 + a * (1.0 - s))", "return a * s, s * (1.0 + a)"),
        ("gate = 1.0 + raw_gate", "gate = raw_gate"),
        ("tf.matmul(slope_1, m) * gate * slope_2", "tf.matmul(slope_1, m) * slope_2"),
        ("z -= 0.5 * h * (v_0 + v_1)", "z -= h * v_1"),
        ("(z + 0.5 * h * (v_0 + v_1),)", "(z + h * v_0,)"),
        (
            "held[index], held[index + 1], *state)\n        return",
            "held[index], held[index], *state)\n        return",
        ),
        (
            "(index + 1, *step(held[index], held[index + 1], *state))",
            "(index + 1, *step(held[index], held[index], *state))",
        ),
        (
            "log_det - 0.5 * h * (divergence_0 + divergence_1)",
            "log_det + 0.5 * h * (divergence_0 + divergence_1)",
        ),
        ("- (latents - u)", "- latents"),
        ("(1.0 - t) * u + t * latents", "t * u + (1.0 - t) * latents"),
    ],
    ("models/priors.py", "test_priors.py"): [
        ("probs=[1.0 - share, share]", "probs=[1.0, share]"),
        ("pending and pending[0] is y", "False"),
        ("wide = tfd.Independent(tfd.Normal(tf.zeros([latent_dim]), scales), 1)", "wide = prior"),
    ],
    ("models/hierarchical_vae.py", "test_priors.py -k tail_of_a_ladder"): [
        ("stream=1) < self.prior_tail", "stream=1) < 0.5 * self.prior_tail"),
    ],
    ("models/ladder.py", "test_priors.py -k ladder"): [
        ("math.log1p(-self.tail) + ratio", "ratio"),
        (" - self.top_dim * math.log(priors.TAIL_SCALE)", ""),
        (" and not plain", ""),
    ],
    ("models/pixel_decoder.py", "test_vae.py"): [
        ("total - math.log(num_samples)", "total"),
        ("index * count + tf.range(count) < num_samples", "tf.range(count) < num_samples"),
    ],
    ("models/gan.py", "test_gan.py"): [
        (
            "fake = tf.stop_gradient(self._generate(self.generator, seeds, labels))",
            "fake = tf.stop_gradient(self._generate(self.averaged_generator, seeds, labels))",
        ),
        ("loss += 0.5 * self.r1 * _squared_norm", "loss += self.r1 * _squared_norm"),
        ("mixed = u * real + (1.0 - u) * fake", "mixed = real"),
        ("return tf.square(norm - 1.0)", "return tf.square(norm)"),
        ("tf.nn.relu(1.0 - real) + tf.nn.relu(1.0 + fake)", "(1.0 - real) + (1.0 + fake)"),
        ("tf.concat([labels, labels], 0)", "tf.concat([labels, tf.zeros_like(labels)], 0)"),
        (
            "lambda mixed: self._logits(mixed, labels)",
            "lambda mixed: self._logits(mixed, 0 * labels)",
        ),
        ("fake = gan_networks.augmented(fake, ", "gan_networks.augmented(fake, "),
        (
            "if self.augment and training:\n                both",
            "if self.augment:\n                both",
        ),
        ("tf.concat([seeds, ~seeds], 0)", "tf.concat([seeds, seeds], 0)"),
        ("drawn = temperature * noise", "drawn = temperature**2 * noise"),
    ],
    ("models/gan_networks.py", "test_gan.py -k augment"): [
        ("0.5 * u[:, 0] - 0.25", "0.5 * u[:, 0]"),
        (
            "tf.reduce_mean(images, 3, keepdims=True)",
            "tf.reduce_mean(images, (1, 2), keepdims=True)",
        ),
        ("tf.range(side) + offset", "tf.range(side) - offset"),
    ],
    ("models/generative.py", "test_contract.py test_gan.py -k interpolation"): [
        ("along = tf.linspace(0.0, 1.0, steps)", "along = tf.square(tf.linspace(0.0, 1.0, steps))"),
    ],
    ("training/build.py", "test_gan.py -k recipe"): [
        ('"beta_2": beta_2', '"beta_2": 0.999'),
        ("starting.gradient_bound(recipe)", "None"),
        ("recipe.final_fraction, warmup, ends)", "0.0, warmup, ends)"),
        ("[updates * epoch for epoch", "[epoch for epoch"),
    ],
    ("models/base.py", "test_contract.py -k noise_of_evaluate"): [
        ("np.full(flat.shape[1], HASH_FACTOR, np.uint64)", "np.full(flat.shape[1], 1, np.uint64)"),
    ],
    ("models/autoregressive.py", "test_pixel_sampling.py -k 'sharpens or at_temperature_zero'"): [
        ("sampler = Sampler(self, temperature)", "sampler = Sampler(self, temperature**2)"),
    ],
    ("models/autoregressive.py", "test_contract.py -k loss_is_the_likelihood"): [
        (
            "self.log_prob_to_train(self.levels_of(images), labels, seeds, dropout)",
            "self.log_prob_to_train(self.levels_of(images), None, seeds, dropout)",
        ),
    ],
    ("models/adversarial.py", "test_gan.py -k averaged_generator"): [
        ("            self.ema_momentum,\n", "            0.9 * self.ema_momentum,\n"),
    ],
    ("models/base.py", "test_contract.py -k equal_sums"): [
        ("tf.reduce_sum(flat * weights, 1))", "tf.reduce_sum(flat, 1))"),
    ],
    ("evaluation/distances.py", "test_metrics.py -k 'frechet or Frechet'"): [
        ("- 2.0 * np.sum(roots)", "- np.sum(roots)"),
        (
            "delta[:, None] * delta[None, :] * count * weight",
            "delta[:, None] * delta[None, :] * weight",
        ),
        ("squares_a / (count_a - 1)", "squares_a / count_a"),
        ("mean.assign_add(delta * weight)", "mean.assign_add(delta)"),
    ],
    ("evaluation/distances.py", "test_metrics.py -k kernel"): [
        ("/ a.shape[1] + 1.0) ** 3", "/ a.shape[1] + 1.0) ** 2"),
        ("float(np.mean(estimates))", "1000.0 * float(np.mean(estimates))"),
        ("(values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))", "values.mean()"),
    ],
    ("evaluation/distances.py", "test_metrics.py test_samples.py"): [
        ("top_k(-part, k + 1)", "top_k(-part, k)"),
        (
            "density = np.mean(_balls_around(generated, real, k)) / k",
            "density = np.mean(_balls_around(generated, real, k))",
        ),
        (
            "recall = np.mean(_balls_around(real, generated, k) > 0)",
            "recall = np.mean(_balls_around(generated, real, k) > 0)",
        ),
    ],
    ("models/resampling.py", "test_vae.py test_gan.py -k 'critic or coarse or candidates'"): [
        (
            "log_weights - tf.math.log(-tf.math.log(u))",
            "log_weights + tf.math.log(-tf.math.log(u))",
        ),
        ("choice(selectivity * tf.reshape", "choice(tf.reshape"),
        ("tf.gather(drawn, chosen, batch_dims=1)", "drawn[:, 0]"),
    ],
    ("models/hierarchical_vae.py", "test_vae.py -k 'critic or coarse'"): [
        ("losses += portable.softplus(self.critic(of_prior, labels))", ""),
        (
            "of_images, of_prior = tf.stop_gradient(of_images), tf.stop_gradient(of_prior)",
            "of_prior = tf.stop_gradient(of_prior)",
        ),
        ("others = (labels + further)", "others = (labels + 0 * further)"),
        ("noise.normal(noise.fold(seeds, CRITIC_FOLD)", "noise.normal(noise.fold(seeds, 0)"),
        ("latents = tf.concat([kept, rest], 1)", "latents = tf.concat([kept, 0.9 * rest], 1)"),
    ],
    ("models/classifier.py", "test_classifier.py -k 'cutout or training_alone'"): [
        ("if training and self.cutout", "if self.cutout"),
        ("* length) - side // 2", "* length)"),
    ],
    ("training/batches.py", "test_batches.py -k 'order or mirror or shift'"): [
        ("augmented(images, step * size + local, recipe)", "augmented(images, local, recipe)"),
        ("images[:, :, ::-1], images)", "images[:, ::-1], images)"),
        ("(seeds, (1, 1, 1)) < 0.5", "(seeds, (1, 1, 1)) < 0.9"),
        ("(seeds, (1, 1, 1)) < 0.5", "(seeds[:1], (1, 1, 1)) < 0.5"),
        ("if recipe.mirror:", "if True:"),
    ],
    ("evaluation/latents.py", "test_evaluation.py -k order_of_a_split"): [
        ("np.arange(count) * len(values) // count", "np.arange(count)"),
    ],
    ("evaluation/latents.py", "test_evaluation.py -k 'squared or agreement or nearest'"): [
        (
            "np.square(truth - prediction).sum((1, 2, 3)).mean()",
            "np.square(truth - prediction).mean()",
        ),
        ("mean_image = pixels.greys_to_unit(train.mean(0))", "mean_image = truth.mean(0)"),
        ("agreement(samples, asked)", "agreement(test, test_labels)"),
        (
            'for part in ("train", "validation") if part != split]',
            'for part in ("train",) if part != split]',
        ),
    ],
    ("evaluation/judges.py", "test_evaluation.py -k plain"): [
        ("max(0.1 * spread[part].max(), 1e-6)", "1e-6"),
    ],
}


class Mutant(NamedTuple):
    """One change, and the tests that should notice it."""

    number: int
    file: str
    tests: str
    text: str
    changed: str

    @property
    def change(self) -> str:
        """What changes, on one line."""
        return f"{self.text.strip()} -> {self.changed.strip() or '(nothing)'}"

    def applied(self) -> str:
        """Returns the file's content with the change.

        Raises:
            ValueError: The text does not occur exactly once.
        """
        content = (ROOT / "tfgen" / self.file).read_text()
        count = content.count(self.text)
        if count != 1:
            raise ValueError(
                f"mutant {self.number}: the text must occur once in {self.file}, found {count} "
                f"times: {self.text!r}. Copy the line as it is now."
            )
        return content.replace(self.text, self.changed)


def mutants() -> list[Mutant]:
    """Returns all mutants, numbered from 1."""
    flat = [
        (file, tests, text, changed)
        for (file, tests), changes in MUTANTS.items()
        for text, changed in changes
    ]
    return [Mutant(number, *values) for number, values in enumerate(flat, 1)]


def verdict(mutant: Mutant) -> tuple[str, float]:
    """Returns "killed", "survived", "undecided" or "broken", and the seconds it took."""
    start = time.perf_counter()
    # pytest: 0 all passed, 1 a test failed, anything else says that the tests did not run.
    words = {0: "survived", 1: "killed", None: "undecided"}
    code = tested(mutant.tests, {mutant.file: mutant.applied()})
    if code == 1 and not passes(mutant.tests):
        code = -1
    return words.get(code, "broken"), time.perf_counter() - start


@functools.cache
def passes(tests: str) -> bool:
    """Whether tests pass on the code as it is, or no mutant can be called killed by them."""
    return tested(tests, {}) == 0


def tested(tests: str, changed: dict[str, str]) -> int | None:
    """Runs tests on a copy of the code with changed files; returns pytest's exit code, if any."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("tfgen", "tfgen_command", "tests", "pyproject.toml", "setup.cfg"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        for name in ("zoo", "benchmarks"):
            (copy / name).symlink_to(ROOT / name)
        for file, content in changed.items():
            (copy / "tfgen" / file).write_text(content)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "not nightly"]  # the proofs of some networks are among the slow ones
        first, *rest = shlex.split(tests)
        files = [first, *(word for word in rest if word.endswith(".py"))]
        options = [word for word in rest if not word.endswith(".py")]
        command += [*(f"tests/{file}" for file in files), *options]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        try:
            return subprocess.run(
                command, cwd=copy, env=environment, timeout=SECONDS, capture_output=True
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def main() -> int:
    parser = common.parser(__doc__, repeats=None)
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    parser.add_argument("--only", nargs="*", default=[], help="files of tfgen, e.g. noise.py")
    parser.add_argument("--numbers", nargs="*", type=int, default=[], help="as listed")
    arguments = parser.parse_args()
    chosen = [
        mutant
        for mutant in mutants()
        if (not arguments.only or mutant.file in arguments.only)
        and (not arguments.numbers or mutant.number in arguments.numbers)
    ]
    if not chosen:
        parser.error("no mutant has such a file or number; --list shows all")
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.number:3} {mutant.file}: {mutant.change}")
        return 0
    rows, found = [], []
    for mutant in chosen:
        result, seconds = verdict(mutant)
        print(f"{mutant.number:3} {result:9} {seconds:5.0f} s  {mutant.change}", file=sys.stderr)
        found.append({**mutant._asdict(), "verdict": result, "seconds": seconds})
        rows.append([str(mutant.number), mutant.file, result, f"{seconds:.0f}", mutant.change])
    return common.finish(
        common.format_table(("mutant", "file", "verdict", "seconds", "change"), rows),
        {"mutants": found},
        all(row["verdict"] == "killed" for row in found),
        "every mutant is killed",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
