"""What `model.sample` costs over its decoder alone, for 10,000 images.

sample            model.sample(num, seed=0, batch_size=250): checks, noise, prior, decoder, uint8
decoder, images   a tf.function of latents -> decoder -> mean of the pixel distribution -> uint8
                  (tfgen.distributions.mean_images, tfgen.pixels.greys_to_images)
decoder, bare     a tf.function of latents -> the decoder's raw output, which is thrown away

The decoder gets its latents in the same batches, and no side uses XLA. All sides that make images
copy them to numpy. The limit: `sample` may take 1.1 times as long as `decoder, images`, the least
that showing an image per latent can cost; the bare network is for information.
"""

import sys
import time

import common
import numpy as np
import tensorflow as tf

TARGET = 1.1  # sample / decoder with conversion to images, at most
SIDES = ("sample", "decoder, images", "decoder, bare")


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--name", default="vae_2d_mnist", help="zoo entry with one draw a sample")
    parser.add_argument("--num", type=int, default=10_000, help="images per round")
    parser.add_argument("--batch-size", type=int, default=250)
    arguments = parser.parse_args()
    num, batch_size = arguments.num, arguments.batch_size

    from tfgen import distributions, pixels
    from tfgen.training import tune_allocator

    tune_allocator()
    model = common.zoo_model(arguments.name)
    if model.num_classes is not None:
        parser.error(f"--name must be an unconditional model; {arguments.name} needs labels")
    drawn = np.random.default_rng(0).standard_normal((num, model.latent_dim))
    latents = tf.constant(drawn, tf.float32)
    signature = [tf.TensorSpec((None, model.latent_dim), tf.float32)]

    @tf.function(input_signature=signature, autograph=False)
    def bare(latents):
        return model.decoder(latents)

    @tf.function(input_signature=signature, autograph=False)
    def images(latents):
        mean = distributions.mean_images(
            model.pixel_distribution,
            model.decoder(latents),
            model.num_levels,
            model.image_shape[2],
        )
        return pixels.greys_to_images(mean, model.num_levels)

    def sample() -> float:
        start = time.perf_counter()
        model.sample(num, seed=0, batch_size=batch_size)
        return time.perf_counter() - start

    def decoder(graph, keep: bool) -> float:
        start = time.perf_counter()
        kept = []
        for first in range(0, num, batch_size):
            output = graph(latents[first : first + batch_size])
            if keep:
                kept.append(output.numpy())
        if keep:
            np.concatenate(kept)
        return time.perf_counter() - start

    model.sample(min(num, 2 * batch_size), seed=0, batch_size=batch_size)
    for graph in (images, bare):
        graph(latents[:batch_size])
    measures = (sample, lambda: decoder(images, True), lambda: decoder(bare, False))
    rounds = common.interleaved(dict(zip(SIDES, measures, strict=True)), arguments.repeats)
    rows, summaries, ratios = [], {}, {}
    for name, values in rounds.items():
        measured = summaries[name] = common.summary(values)
        row = [name, f"{measured['median']:.3f}", f"{measured['min']:.3f}..{measured['max']:.3f}"]
        row.append(f"{num / measured['median']:,.0f}")
        if name == "sample":
            row += ["", ""]
        else:
            over = ratios[name] = common.ratio(rounds["sample"], values)
            row += [f"{over['ratio']:.3f}", f"{over['min']:.3f}..{over['max']:.3f}"]
        rows.append(row)
    header = ("seconds", "median", "min..max", "images/s", "sample / it", "min..max")
    figure = ratios["decoder, images"]["ratio"]
    return common.finish(
        f"{arguments.name}: {num:,} images in batches of {batch_size}, {arguments.repeats} "
        f"rounds\n\n{common.format_table(header, rows)}",
        {
            "name": arguments.name,
            "num": num,
            "batch_size": batch_size,
            "seconds": summaries,
            "sample_over": ratios,
            "target": TARGET,
        },
        figure <= TARGET,
        f"sample / decoder with conversion to images = {figure:.3f}, limit at most {TARGET}",
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
