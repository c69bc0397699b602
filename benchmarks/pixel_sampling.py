"""What sampling from a pixel model costs, over one forward pass of the same network.

forward     one pass over the same number of images, giving the parameters of every pixel, from a
            tf.function without XLA
cached      model.sample with jit_sampling; each core draws a share of the batch
no XLA      model.sample without it
whole loop  a tf.while_loop that runs the whole network for each softmax of each token
predict     one model.predict for each of them, as public examples do it

The last two are timed for a few steps and multiplied, because a whole batch takes up to an hour.

All use the same weights. Times are medians over rounds in which the sides take turns. A pass also
computes the taps that masks multiply by zero; `taps in use` is the share without them. The table
also shows the seconds of the first call, most of them compiling, and the peak memory.

The limits: cached / forward at most 1.5 at batches 64 and 256; at most 20 ms at batch 1 (colour is
measured at batch 64 alone, unless --batches says otherwise); the loop
of predict at least 1000 times slower at batches 1 and 64 (for single-pixel tokens); the whole loop
slower at every batch; and the likelihood of images at most 1.1 times their forward passes.
"""

import sys
import time

import common
import numpy as np
import tensorflow as tf
from peers.contract import peak_megabytes

LIMITS = {"cached": 1.5, "batch 1": 0.020, "predict": 1000.0, "likelihood": 1.1}
LEAST_ROUNDS = 25  # of the small batches, which take little time and vary more
STEPS_TIMED = 6  # of the loops that run the whole network for each softmax of each token


def plain():
    """The plain PixelCNN: single pixels, 32 filters, 7 residual blocks, initial weights."""
    import keras

    from tfgen import PixelCNN

    keras.utils.set_random_seed(0)
    return PixelCNN(
        (28, 28, 1),
        filters=32,
        num_blocks=7,
        block="residual",
        num_levels=2,
        pixel_distribution="bernoulli",
    )


def attentive():
    """Tokens of 2x2 pixels, 5 gated blocks of 32 filters, attention over the 196 tokens."""
    import keras

    from tfgen import PixelCNN

    keras.utils.set_random_seed(0)
    return PixelCNN(
        (28, 28, 1),
        attention_heads=4,
        token_shape=(2, 2),
        num_levels=2,
        pixel_distribution="bernoulli",
    )


BATCHES = (1, 16, 64, 256)
OWN_BATCHES = {"pixelcnn_cifar10_jpeg": (64,)}  # the limit at batch 1 is one of 28x28x1
MADE = {"plain": plain, "attentive": attentive}  # the others are entries of the zoo


def taps_in_use(model) -> float:
    """The share of the trunk's products that no mask sets to zero."""
    from tfgen.layers import MaskedConv2D

    used = total = 0
    for layer in model.trunk._flatten_layers():
        if isinstance(layer, MaskedConv2D):
            size = int(np.prod(layer.kernel.shape))
            total += size
            used += size * layer.allowed.mean()
        elif type(layer).__name__ == "Dense":
            size = int(np.prod(layer.kernel.shape))
            total, used = total + size, used + size
    return used / total


def whole_loop(model):
    """Returns seeds -> the first tokens, by a loop that runs the whole network at each of them."""
    from tfgen.models.sampler import Sampler

    rows, columns, groups, size = model.token_grid.shape
    sampler = Sampler(model)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int64)], autograph=False)
    def sample(seeds):
        batch = tf.shape(seeds)[0]
        uniforms = sampler.uniforms(seeds)
        uniforms = tf.reshape(uniforms, (batch, rows * columns * groups, uniforms.shape[-1]))
        conditions = model.conditions(batch, None, 0)

        def one(index, flat):
            tokens = tf.reshape(flat, (batch, rows, columns, groups, size))
            parameters = tf.reshape(
                model.parameters_of(tokens, conditions),
                (batch, rows * columns * groups, model.outputs),
            )
            level = sampler.draw_group(parameters[:, index], uniforms[:, index])
            at = tf.one_hot(index, rows * columns * groups)[None, :, None]
            return index + 1, flat * (1.0 - at) + at * level[:, None]

        start = tf.zeros((batch, rows * columns * groups, size))
        _, flat = tf.while_loop(lambda index, _: index < STEPS_TIMED, one, (tf.constant(0), start))
        return flat

    return sample


def measure(name, model, batches, repeats) -> tuple[list[dict], bool]:
    """Times every side of one model at each batch."""
    grid, labels = model.token_grid.shape, None if model.num_classes is None else 0
    single = model.token_shape == (1, 1)

    @tf.function(input_signature=[tf.TensorSpec((None, *grid), tf.float32)], autograph=False)
    def forward(tokens):
        return model.parameters_of(tokens, model.conditions(tf.shape(tokens)[0], None, 0))

    loop = whole_loop(model)
    rows, passed = [], True
    for batch in batches:
        tokens = tf.zeros((batch, *grid))
        images = np.zeros((batch, *model.image_shape), np.uint8)

        def timed(function):
            start = time.perf_counter()
            function()
            return time.perf_counter() - start

        def draw(jit, batch=batch):
            model.jit_sampling = jit
            model.sample(batch, seed=0, labels=labels)

        def pass_once(tokens=tokens):
            forward(tokens).numpy()

        def loop_once(batch=batch):
            loop(tf.range(batch, dtype=tf.int64)).numpy()

        given = images if labels is None else (images, np.zeros(batch, np.int64))

        def predict_few(given=given, batch=batch):
            for _ in range(STEPS_TIMED):
                model.predict(given, batch_size=batch, verbose=0)

        first = {"cached": timed(lambda: draw(True)), "no XLA": timed(lambda: draw(False))}
        for warm in (pass_once, loop_once, predict_few):
            warm()
        sides = {
            "forward": lambda: timed(pass_once),
            "cached": lambda: timed(lambda: draw(True)),
            "no XLA": lambda: timed(lambda: draw(False)),
        }
        seconds = common.interleaved(sides, repeats if batch > 16 else max(repeats, LEAST_ROUNDS))
        slow = common.interleaved(
            {"whole loop": lambda: timed(loop_once), "predict": lambda: timed(predict_few)},
            min(repeats, 2),
        )
        steps = int(np.prod(grid[:3])) / STEPS_TIMED
        slow = {side: [s * steps for s in taken] for side, taken in slow.items()}
        medians = {k: common.summary(v)["median"] for k, v in (seconds | slow).items()}
        over = common.ratio(seconds["cached"], seconds["forward"])
        print(f"{name}, {batch}: cached / forward {over['ratio']:.2f}", file=sys.stderr)
        if batch in (64, 256):
            passed &= over["ratio"] <= LIMITS["cached"]
        if batch == 1:
            passed &= medians["cached"] <= LIMITS["batch 1"]
        if single and batch in (1, 64):
            passed &= medians["predict"] >= LIMITS["predict"] * medians["cached"]
        passed &= medians["cached"] < medians["whole loop"]
        rows.append(
            {
                "model": name,
                "batch": batch,
                "seconds": medians,
                "cached_over_forward": over,
                "first_call_seconds": first,
            }
        )
    return rows, bool(passed)


def likelihood(model, num: int, repeats: int) -> dict[str, float]:
    """log_likelihood over the forward passes of every order, for `num` images."""
    images = np.zeros((num, *model.image_shape), np.uint8)
    labels = None if model.num_classes is None else 0
    tokens = tf.zeros((100, *model.token_grid.shape))

    @tf.function(input_signature=[tf.TensorSpec((None, *model.token_grid.shape), tf.float32)])
    def forward(tokens):
        return model.parameters_of(tokens, model.conditions(tf.shape(tokens)[0], None, 0))

    def passes():
        start = time.perf_counter()
        for _ in range(num // 100 * model.orders):
            forward(tokens).numpy()
        return time.perf_counter() - start

    def score():
        start = time.perf_counter()
        model.log_likelihood(images, labels=labels, batch_size=100)
        return time.perf_counter() - start

    passes(), score()
    rounds = common.interleaved({"passes": passes, "score": score}, repeats)
    return common.ratio(rounds["score"], rounds["passes"])


def main() -> int:
    parser = common.parser(__doc__)
    names = ["plain", "attentive", "pixelcnn_binarized_mnist", "pixelcnn_cifar10_jpeg"]
    parser.add_argument("--names", nargs="*", default=names)
    parser.add_argument("--batches", nargs="*", type=int, help="of every model")
    parser.add_argument("--scored", type=int, default=1000, help="images to compute likelihoods of")
    arguments = parser.parse_args()

    from tfgen.training import tune_allocator

    tune_allocator()
    measured, lines, passed = [], [], True
    for name in arguments.names:
        model = MADE[name]() if name in MADE else common.zoo_model(name)
        batches = arguments.batches or OWN_BATCHES.get(name, BATCHES)
        rows, fine = measure(name, model, batches, arguments.repeats)
        scoring = likelihood(model, arguments.scored, min(arguments.repeats, 3))
        passed &= fine and scoring["ratio"] <= LIMITS["likelihood"]
        share = taps_in_use(model)
        for row in rows:
            row |= {"taps_in_use": share, "likelihood_over_forward": scoring["ratio"]}
            seconds, over = row["seconds"], row["cached_over_forward"]
            lines.append(
                [
                    f"{name}, {row['batch']}",
                    *(f"{seconds[side]:.4f}" for side in ("forward", "cached", "no XLA")),
                    f"{over['ratio']:.2f} ({over['min']:.2f}..{over['max']:.2f})",
                    f"{over['ratio'] / share:.2f}",
                    f"{seconds['whole loop']:.2f}",
                    f"{seconds['predict']:.0f}",
                    f"{seconds['predict'] / seconds['cached']:,.0f}",
                    f"{row['first_call_seconds']['cached']:.1f}",
                    f"{scoring['ratio']:.2f}",
                ]
            )
        measured += rows
    header = (
        *("seconds: model, batch", "forward", "cached", "no XLA", "cached / forward"),
        *("/ taps in use", "whole loop", "predict", "predict / cached", "first", "log p / forward"),
    )
    peak = peak_megabytes()
    return common.finish(
        f"{common.format_table(header, lines)}\n\npeak memory {peak:,.0f} MB; malloc keeps freed "
        "memory (tune_allocator)",
        {"measured": measured, "peak_mb": peak, "limits": LIMITS},
        passed,
        "; ".join(f"{name} {limit}" for name, limit in LIMITS.items()),
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
