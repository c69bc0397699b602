"""PixelCNN and PixelRNN: normalised, causal, and what else their densities promise."""

import concurrent.futures
import dataclasses
import itertools

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from pixel_networks import BINARY, SMALL, build, each_network, every_image

from tfgen import PixelCNN, PixelRNN, layers, training, zoo
from tfgen.models import endpoints
from tfgen.models.tokens import TokenGrid

# Masks


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaskedConv2D(3, (2, 3), "A"),
        layers.MaskedConv2D(3, (2, 3), "vertical_A"),
        layers.MaskedConv2D(3, (1, 2), "horizontal_A"),
        layers.SubPixel(2),
    ],
    ids=["A", "vertical_A", "horizontal_A", "SubPixel"],
)
def test_layers_take_grids_of_unknown_size(layer):
    inputs = keras.Input((None, None, 4))
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype("float32")
    np.testing.assert_array_equal(keras.Model(inputs, layer(inputs))(x), layer(x))


def tap_picture(mask: str, kernel_size, grid=(5, 7), at=(3, 3)) -> np.ndarray:
    """Which positions of a grid the output at `at` depends on, bool."""
    layer = layers.MaskedConv2D(1, kernel_size, mask)
    x = tf.Variable(tf.zeros((1, *grid, 1)))
    layer(x)
    layer.kernel.assign(tf.ones_like(layer.kernel))
    with tf.GradientTape() as tape:
        out = layer(x)[0, at[0], at[1], 0]
    return tape.gradient(out, x)[0, :, :, 0].numpy() != 0


@pytest.mark.parametrize(
    ("mask", "kernel_size", "rows"),
    [
        ("A", (3, 5), [".......", ".#####.", ".#####.", ".##....", "......."]),
        ("B", (3, 5), [".......", ".#####.", ".#####.", ".###...", "......."]),
        ("vertical_A", (2, 3), [".......", "..###..", "..###..", ".......", "......."]),
        ("vertical_B", (2, 3), [".......", ".......", "..###..", "..###..", "......."]),
        ("horizontal_A", (1, 3), [".......", ".......", ".......", "###....", "......."]),
        ("horizontal_B", (1, 3), [".......", ".......", ".......", ".###...", "......."]),
    ],
)
def test_masks_are_as_drawn(mask, kernel_size, rows):
    drawn = np.array([[letter == "#" for letter in row] for row in rows])
    np.testing.assert_array_equal(tap_picture(mask, kernel_size), drawn)


@pytest.mark.parametrize("mask", layers.MASKS)
def test_masked_convolution_by_rows_and_columns(mask):
    """What the sampler adds up is what the whole convolution gives."""
    size = (1, 3) if mask.startswith("horizontal") else (2, 3)
    layer = layers.MaskedConv2D(3, size, mask, dtype="float64")
    x = tf.random.stateless_normal((2, 4, 5, 2), (0, 1), dtype=tf.float64)
    whole = layer(x)
    layer.bias.assign([0.1, 0.2, 0.3])
    whole = whole + layer.bias
    rows = tf.transpose(x, (1, 2, 0, 3))  # (rows, columns, batch, channels)
    depth = layer.rows_above
    history = tf.pad(rows, [[max(depth, 1), 0], [0, 0], [0, 0], [0, 0]])
    for row, column in itertools.product(range(4), range(5)):
        value = tf.cast(layer.bias, tf.float64)
        if depth:
            # Of vertical_B the own row is one of those that come as rows.
            last = row + max(depth, 1) + (mask == "vertical_B")
            value = layer.apply_rows_above(history[last - depth : last])[column]
        if layer.num_left or layer.includes_center:
            padded = tf.pad(rows[row], [[layer.num_left, 0], [0, 0], [0, 0]])
            count = layer.num_left + layer.includes_center
            seen = tf.unstack(padded[column : column + count])
            value += layer.apply_left(seen, layer.left_kernel())
        expected = whole[:, row, column]
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mask", ["A", "B"])
def test_masked_dense(mask):
    layer = layers.MaskedDense(2, 3, mask)
    x = tf.random.stateless_normal((4, 9), (0, 1))
    whole = layer(x)
    for group in range(mask == "A", 3):
        seen = 3 * (group + (mask == "B"))
        own = layer.group(x[:, :seen], group)
        np.testing.assert_allclose(own, whole[:, 2 * group : 2 * group + 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "C", "kernel_size": (1, 3)}, "mask must be one of A, B.*received 'C'"),
        ({"mask": "A", "kernel_size": (2, 2)}, r"kernel_size must be.*odd.*\(2, 2\)"),
        ({"mask": "horizontal_A", "kernel_size": (2, 3)}, r"must be \(1, columns\)"),
    ],
)
def test_bad_masks(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.MaskedConv2D(2, **arguments)
    with pytest.raises(ValueError, match="mask must be one of A, B; received 'C'"):
        layers.MaskedDense(2, 3, "C")


# Normalisation

SPACES = {
    "pixels": ((2, 2, 1), {}),
    "nine_pixels": ((3, 3, 1), {}),
    "orders": ((3, 3, 1), {"orders": 8}),
    "token_2x2": ((2, 4, 1), {"token_shape": (2, 2), "orders": 2}),
    "token_2x4": ((2, 4, 1), {"token_shape": (2, 4)}),
    "token_3x3": ((3, 3, 1), {"token_shape": (3, 3), "orders": 4}),
    "token_1x3": ((3, 3, 1), {"token_shape": (1, 3)}),
    "colours": ((2, 1, 3), {"token_shape": (2, 1)}),
    "classes": ((2, 2, 1), {"num_classes": 2}),
    "categorical": ((2, 2, 1), {"num_levels": 3, "pixel_distribution": "categorical"}),
    "categorical_tokens": (
        (2, 4, 1),
        {
            "num_levels": 3,
            "pixel_distribution": "categorical",
            "token_shape": (2, 2),
            "fourier_features": 1,
        },
    ),
    "mixture": (
        (1, 2, 3),
        {"num_levels": 3, "pixel_distribution": "discretized_logistic_mixture"},
    ),
}


@pytest.mark.slow_except(
    "pixels-gated",
    "orders-gated",
    "token_2x2-gated",
    "colours-gated",
    "classes-gated",
    "mixture-gated",
)
@each_network
@pytest.mark.parametrize("space", SPACES)
def test_probabilities_sum_to_one(network, space):
    image_shape, arguments = SPACES[space]
    model = build(network, image_shape, **arguments)
    images = every_image(model)
    labels = laws.given(model, 1)
    scores = model.log_likelihood(images, batch_size=len(images), **labels)
    assert np.exp(scores.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


def test_levels_of_a_pixel_sum_to_one():
    """Over all 256 levels of one pixel, the others fixed."""
    for distribution in ("categorical", "discretized_logistic_mixture"):
        model = build("gated", (2, 2, 1), num_levels=256, pixel_distribution=distribution)
        images = np.repeat(laws.images_for(model, 1), 256, 0)
        images[:, 1, 0, 0] = np.arange(256)
        log_probs = model.log_likelihood_map(images)[:, 1, 0, 0].astype(np.float64)
        assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-4)


# Causality


def dependence(model) -> np.ndarray:
    """|d parameters of place a / d place b|, places in the order of drawing, (places, places)."""
    grid = model.token_grid.shape
    values = np.random.default_rng(1).uniform(size=(1, *grid))
    tokens = tf.Variable(values, dtype=tf.float64)
    places = int(np.prod(grid[:3]))
    with tf.GradientTape() as tape:
        parameters = model.parameters_of(tokens, model.conditions(1, None, 0))
        weights = np.random.default_rng(2).standard_normal(parameters.shape[-1])
        seen = tf.reshape(parameters @ weights[:, None], (places,))
    slopes = tape.jacobian(seen, tokens).numpy().reshape(places, places, grid[3])
    return np.abs(slopes).max(-1)


CAUSAL = {
    "pixels": ((5, 6, 1), {}),
    "tokens": ((4, 8, 1), {"token_shape": (2, 4)}),
    "colours": ((3, 4, 3), {}),
    "mixture": ((3, 4, 3), {"num_levels": 7, "pixel_distribution": "discretized_logistic_mixture"}),
    "coloured_tokens": (
        (4, 2, 3),
        {"num_levels": 3, "pixel_distribution": "categorical", "token_shape": (2, 1)},
    ),
}


@pytest.mark.slow_except("*-gated", "tokens-row")
@each_network
@pytest.mark.parametrize("space", CAUSAL)
def test_no_place_sees_itself_or_the_future(network, space):
    image_shape, arguments = CAUSAL[space]
    model = build(network, image_shape, dtype="float64", **arguments)
    assert (np.triu(dependence(model)) == 0).all()


def allowed(network: str, model) -> np.ndarray:
    """The stated receptive field on a grid of single grey pixels, bool (places, places)."""
    rows, columns, _, _ = model.token_grid.shape
    up, across = model.kernel_size
    blocks = model.num_blocks
    sees = np.zeros((rows, columns, rows, columns), bool)
    for i, j, r, s in itertools.product(range(rows), range(columns), range(rows), range(columns)):
        before = (r, s) < (i, j)
        if network in ("diagonal", "attentive"):
            sees[i, j, r, s] = before
            continue
        above = i - r
        half = across // 2
        if network == "gated":
            # first layer: `up` rows above; a block: one row more, one column more each way; the own
            # row: half + 1 to the left, and 2 more a block.
            left = half + 1 + 2 * blocks
            if above == 0:
                sees[i, j, r, s] = before and j - s <= left
            else:
                reach = half + blocks  # of v at one column; h adds columns to the left of it
                sees[i, j, r, s] = (
                    above <= up + blocks and j - s <= reach + 2 * blocks and (s - j <= reach)
                )
        elif network == "residual":
            # first layer: `up` rows above, then one row more a block; a row above is reached one
            # column further right for each block that goes up: the wedge beyond stays hidden.
            sees[i, j, r, s] = (
                before
                and above <= up + blocks
                and (
                    j - s <= half + blocks and s - j <= (min(above, blocks) + half if above else -1)
                )
            )
    return sees.reshape(rows * columns, rows * columns)


@pytest.mark.slow
def test_every_allowed_place_is_seen():
    """The two-stack network has no blind spot; the diagonal one and attention see everything."""
    for network in ("gated", "residual", "diagonal", "attentive"):
        model = build(network, (4, 7, 1), dtype="float64", kernel_size=(1, 3), num_blocks=3)
        seen = dependence(model) > 0
        np.testing.assert_array_equal(seen & ~allowed(network, model), False)
        if network == "residual":  # it has a blind spot
            continue
        if network in ("diagonal", "attentive"):
            np.testing.assert_array_equal(seen, allowed(network, model))
        near = np.tril(np.ones_like(seen), -1)
        if network == "gated":
            # 3 blocks reach all four rows; columns up to 4 to the right of the rows above.
            rows, columns = 4, 7
            places = np.arange(rows * columns)
            column = places % columns
            right = column[None] - column[:, None]
            near &= right <= 1 + 3
            near &= column[:, None] - column[None] <= 2
        assert seen[near].all()


def test_one_stack_is_blind_to_a_wedge():
    model = build("residual", (4, 7, 1), dtype="float64", kernel_size=(1, 3), num_blocks=1)
    seen = (dependence(model) > 0).reshape(4, 7, 4, 7)
    assert seen[2, 2, 1, 3]
    assert not seen[2, 2, 1, 5]
    two_stacks = build("gated", (4, 7, 1), dtype="float64", kernel_size=(1, 3), num_blocks=1)
    assert (dependence(two_stacks) > 0).reshape(4, 7, 4, 7)[2, 2, 1, 4]


def test_fourier_features_tell_levels_apart():
    """Of period 2, 4 and 8: the levels 0 to 7 have distinct features, and 8 has those of 0."""
    arguments = {"num_levels": 9, "pixel_distribution": "categorical", "fourier_features": 3}
    model = build("gated", (2, 2, 1), dtype="float64", **arguments)
    levels = tf.range(9, dtype=tf.float64)[:, None]
    features = model.group_features(levels).numpy()
    assert features.shape == (9, 7)
    np.testing.assert_allclose(features[:, 0], np.linspace(-1, 1, 9))
    waves = features[:, 1:]
    apart = np.linalg.norm(waves[:8, None] - waves[None, :8], axis=-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 1.9
    np.testing.assert_allclose(waves[8], waves[0], atol=1e-12)


# Orders and maps


@pytest.mark.slow_except("gated")
@each_network
def test_several_orders_are_the_mean_of_their_probabilities(network):
    model = build(network, (4, 4, 1), orders=4, token_shape=(2, 2))
    images = laws.images_for(model, 3)
    sums = np.array(
        [model.log_likelihood_map(images, order=k).sum((1, 2, 3)) for k in range(model.orders)]
    )
    assert len(np.unique(sums.round(3))) == sums.size, "the orders are all alike"
    mean = np.log(np.exp(sums.astype(np.float64)).mean(0))
    np.testing.assert_allclose(model.log_likelihood(images), mean, rtol=1e-5)


def test_every_order_is_trained():
    """Each image in the order that its seed picks."""
    model = build("gated", (4, 4, 1), orders=8)
    image, seeds = laws.images_for(model, 1), tf.range(64, dtype=tf.int64)
    by_order = [-model.log_likelihood_map(image, order=order).sum() for order in range(8)]
    assert len(np.unique(np.round(by_order, 3))) == 8, "the orders are all alike"
    picked = model.picked_reading(seeds).numpy()
    assert set(picked) == set(range(8))
    images = tf.constant(np.repeat(image, 64, 0))
    losses = model.losses_per_image(images, None, seeds, training=True)
    np.testing.assert_allclose(losses["loss"], np.take(by_order, picked), rtol=1e-5)


def test_orders_turn_and_turn_back():
    model = build("gated", (4, 4, 1), orders=8)
    images = tf.constant(np.arange(32).reshape(2, 4, 4, 1))
    flat = set()
    for order in range(8):
        which = tf.fill((2,), order)
        turned = model.token_grid.reorder(images, which)
        flat.add(tuple(turned[0].numpy().reshape(-1)))
        np.testing.assert_array_equal(model.token_grid.restore(turned, which), images)
    assert len(flat) == 8
    np.testing.assert_array_equal(
        model.token_grid.reorder(images, tf.fill((2,), 1))[0, :, :, 0],
        images[0, ::-1, ::-1, 0],
        err_msg="the second order is not turned by 180 degrees",
    )


def test_the_orders_are_those_that_are_listed():
    image, grid = np.arange(9).reshape(3, 3), TokenGrid((3, 3, 1), (1, 1), orders=8)
    listed = [image, np.rot90(image, 2), image.T, np.rot90(image.T, 2)]
    listed += [each[:, ::-1] for each in listed]
    for order, expected in enumerate(listed):
        found = grid.reorder(tf.constant(image[None, ..., None]), tf.constant([order]))
        np.testing.assert_array_equal(found[0, ..., 0], expected, err_msg=str(order))


@pytest.mark.parametrize("network", ["gated", "residual", "row", "diagonal"])
def test_a_kernel_of_even_width_is_refused_as_it_was_given(network):
    with pytest.raises(ValueError, match=r"kernel_size must be .*received \(3, 6\)\. Use \(3, 7\)"):
        build(network, (8, 8, 1), kernel_size=(3, 6))


@pytest.mark.slow
def test_a_row_lstm_sees_the_triangle_above():
    model = build("row", (4, 7, 1), dtype="float64", kernel_size=(1, 3), num_blocks=3)
    seen = (dependence(model) > 0).reshape(4, 7, 4, 7)
    for up in (1, 2, 3):
        assert seen[3, 3, 3 - up, 3 - up : 4 + up].all(), up


@pytest.mark.slow
def test_map_of_each_distribution_adds_up():
    for arguments in (
        {"token_shape": (2, 4)},
        {"image_shape": (2, 4, 3), "num_levels": 5, "pixel_distribution": "categorical"},
        {"num_levels": 9, "pixel_distribution": "discretized_logistic_mixture"},
    ):
        model = build("gated", **{"image_shape": (4, 8, 1), **arguments})
        images = laws.images_for(model, 3)
        of_pixels = model.log_likelihood_map(images)
        assert of_pixels.shape == images.shape
        assert (of_pixels < 0).all()
        np.testing.assert_allclose(
            of_pixels.sum((1, 2, 3)), model.log_likelihood(images), rtol=1e-4
        )
    with pytest.raises(ValueError, match="order must be one of 0; received 1"):
        model.log_likelihood_map(images, order=1)


def test_call_gives_the_parameters_of_each_pixel():
    """Their leading axes are the image's; inside a token they are conditional logits."""
    for arguments, outputs in (
        ({}, 1),
        ({"token_shape": (2, 4)}, 1),
        ({"num_levels": 5, "pixel_distribution": "categorical"}, 5),
        ({"pixel_distribution": "discretized_logistic_mixture", "num_mixtures": 3}, 9),
    ):
        model = build("gated", (4, 8, 1), **arguments)
        images = laws.images_for(model, 3)
        parameters = model(images)
        assert parameters.shape == (3, 4, 8, 1, outputs)
        if outputs == 1:
            signs = np.where(images > 0, 1.0, -1.0)
            log_probs = -np.logaddexp(0.0, -signs * parameters.numpy()[..., 0])
            np.testing.assert_allclose(
                log_probs.sum((1, 2, 3)), model.log_likelihood(images), rtol=1e-4
            )


def test_dropout_is_off_outside_training():
    model = build("gated", (4, 4, 1), dropout=0.5)
    images = tf.constant(laws.images_for(model, 4))
    seeds = tf.range(4, dtype=tf.int64)
    training, testing = (
        model.losses_per_image(images, None, seeds, training)["loss"] for training in (True, False)
    )
    assert (training.numpy() != testing.numpy()).any()
    np.testing.assert_allclose(testing, -model.log_likelihood(images.numpy()), rtol=1e-5)


@pytest.mark.slow
@each_network
def test_dropout_has_a_stream_for_every_place(network, monkeypatch):
    """Both stacks of a gated block, every block, and every member, drop other features."""
    model = build(network, (2, 2, 1), dropout=0.5, num_blocks=3)
    streams = []

    def recorded(x, rate, seeds, stream, whole=layers.seeded_dropout):
        streams.append((stream, *seeds.numpy()))
        return whole(x, rate, seeds, stream)

    monkeypatch.setattr(layers, "seeded_dropout", recorded)
    images = tf.constant(laws.images_for(model, 2))
    model.losses_per_image(images, None, tf.range(2, dtype=tf.int64), training=True)
    assert len(streams) >= 3
    assert len(set(streams)) == len(streams)


@pytest.mark.parametrize("rate", [0.001, 0.999])
def test_a_rate_of_dropout_is_never_rounded_to_nothing_or_all(rate):
    y = layers.seeded_dropout(tf.ones((8, 50, 40)), rate, tf.range(8, dtype=tf.int64), 0).numpy()
    assert np.isfinite(y).all()
    assert (y == 0).any()
    assert (y > 0).any()
    assert y.mean() == pytest.approx(1.0, abs=0.2)


def test_whole_passes_run_one_after_the_other_and_none_is_too_large(monkeypatch):
    """What bounds their memory is the number of images in a pass."""
    model = build("gated", (4, 4, 1), orders=2)
    images = laws.images_for(model, 7)
    whole = [model.log_likelihood_map(images, order=order) for order in (0, 1)]
    workers, passes = [], []
    pool, single = concurrent.futures.ThreadPoolExecutor, model._log_prob_of_pixels
    monkeypatch.setattr(
        concurrent.futures, "ThreadPoolExecutor", lambda n: workers.append(n) or pool(n)
    )
    monkeypatch.setitem(endpoints.PER_PASS, "log_likelihood_map", 3)
    model._log_prob_of_pixels = lambda levels, *given: (
        passes.append(len(levels)) or single(levels, *given)
    )
    model.num_workers = 5
    for order in (0, np.int64(1)):
        found = model.log_likelihood_map(images, order=order)
        np.testing.assert_allclose(found, whole[int(order)], rtol=1e-5, atol=1e-6)
    model.log_likelihood(images)
    assert not workers
    assert passes[-3:] == [3, 3, 1]
    model.sample(2, seed=0)
    assert workers[-1] == 5
    for wrong in (-1, 2, 1.0, True):
        with pytest.raises(ValueError, match=r"order must .*received"):
            model.log_likelihood_map(images, order=wrong)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropped_share(rate):
    x = tf.ones((8, 50, 40))
    seeds = tf.range(8, dtype=tf.int64)
    y = layers.seeded_dropout(x, rate, seeds, 0).numpy()
    assert (y == 0).mean() == pytest.approx(rate, abs=0.01)
    assert y.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(layers.seeded_dropout(x[3:4], rate, seeds[3:4], 0)[0], y[3])
    assert (layers.seeded_dropout(x, rate, seeds, 1).numpy() != y).any()
    assert layers.seeded_dropout(x, rate, None, 0) is x


# Colour


@pytest.mark.slow
def test_the_colour_recipe_trains_samples_and_exports(tmp_path):
    """zoo/pixelcnn_cifar10_jpeg with fewer filters, on made-up images of its size."""
    recipe = zoo.load_recipe("pixelcnn_cifar10_jpeg")
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    splits = dict.fromkeys(("x_train", "x_val", "x_test"), images)
    splits |= dict.fromkeys(("y_train", "y_val", "y_test"), np.arange(24) % 10)
    np.savez(tmp_path / "colour.npz", **splits)
    small = {**recipe.model, "filters": 4, "num_blocks": 1, "head_units": 4, "num_mixtures": 2}
    tiny = dataclasses.replace(
        recipe, model=small, data=str(tmp_path / "colour.npz"), batch_size=8, epochs=1
    )
    model = training.train(tiny, tmp_path / "run", verbose=0)
    labels = np.array([3, 7])
    drawn = model.sample(2, seed=0, labels=labels)
    assert drawn.shape == (2, 32, 32, 3)
    assert len(np.unique(drawn)) > 50
    assert (drawn[..., 0] != drawn[..., 1]).any(), "the channels are copies"
    version = model.export(tmp_path / "colour")
    exported = tf.saved_model.load(str(version)).signatures["sample"]
    seeds = tf.range(2, dtype=tf.int64)
    (again,) = exported(seed=seeds, labels=tf.constant(labels, tf.int64)).values()
    laws.assert_close_images(again.numpy(), drawn, 256)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_shape": (3, 4)}, r"token_shape must divide the image; received \(3, 4\)"),
        ({"token_shape": (0, 1)}, "token_shape must be a list of 2 integers of at least 1"),
        (
            {"token_shape": (2, 2), "fourier_features": 2},
            r"fourier_features must be 0 where.*received 2 with.*token_shape=\(2, 2\)",
        ),
        ({"fourier_features": -1}, "fourier_features must be an integer of at least 0"),
        ({"orders": 3}, "orders must be one of 1, 2, 4, 8; received 3"),
        ({"orders": 4, "image_shape": (4, 8, 1)}, "orders=4 turns images.*must be square"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"filters": 0}, "filters must be an integer of at least 1"),
        ({"image_shape": (4, 4, 2)}, "image_shape must be.*1 or 3 channels"),
        ({"num_levels": 256, "pixel_distribution": "gaussian"}, "probabilities of levels"),
        ({"num_levels": 4}, "'bernoulli' needs num_levels=2"),
    ],
)
@pytest.mark.parametrize("family", [PixelCNN, PixelRNN])
def test_bad_arguments(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        family(**{"image_shape": (4, 4, 1), **BINARY, **SMALL, **arguments})


def test_bad_kinds():
    with pytest.raises(ValueError, match="block must be one of gated, residual; received 'x'"):
        PixelCNN((4, 4, 1), block="x")
    with pytest.raises(
        ValueError, match=r"attention_heads must divide the 32 channels.*received 5"
    ):
        PixelCNN((4, 4, 1), attention_heads=5)
    with pytest.raises(ValueError, match="attention_heads must be an integer of at least 0"):
        PixelCNN((4, 4, 1), attention_heads=-1)
    with pytest.raises(ValueError, match="cell must be one of row_lstm, diagonal_bilstm"):
        PixelRNN((4, 4, 1), cell="x")


@each_network
def test_no_latents(network):
    model = build(network, (4, 4, 1))
    images = laws.images_for(model, 2)
    for call in (model.encode, model.reconstruct):
        with pytest.raises(NotImplementedError, match="of the pixels directly, without latents"):
            call(images)
    with pytest.raises(NotImplementedError, match="without latents"):
        model.decode(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="images must have shape"):
        model.log_likelihood(np.zeros((2, 5, 4, 1), np.uint8))


def test_group_shapes():
    def group_shape(*token_shape):
        return TokenGrid((168, 168, 1), token_shape, shared_softmax=True).group_shape

    assert group_shape(2, 4) == (2, 2)
    assert group_shape(4, 4) == (2, 2)
    assert group_shape(1, 1) == (1, 1)
    assert group_shape(3, 3) in ((1, 3), (3, 1))
    assert group_shape(7, 7) == (1, 1)
