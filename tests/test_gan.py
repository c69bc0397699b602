"""The GAN: its objectives, its two updates, its averaged generator, its faults."""

import json

import keras
import laws
import numpy as np
import pytest
import runs
import tensorflow as tf

from tfgen import GAN, data, noise, pixels, training
from tfgen.models import gan, gan_networks
from tfgen.models.generative import with_labels
from tfgen.recipe import Recipe
from tfgen.training import checkpoint

TINY = {"image_shape": (8, 8, 1), "latent_dim": 3, "filters": (4,), "dense_units": 8}
LOGITS = tf.constant([-30.0, -2.0, -0.5, 0.0, 0.7, 3.0, 30.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def made(**changes) -> GAN:
    keras.utils.set_random_seed(2)
    model = GAN(**{**TINY, **changes})
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01), jit_compile=False)
    return model


# Objectives


@pytest.mark.parametrize("objective", [gan.minimax, gan.non_saturating])
def test_discriminator_of_the_game_has_the_cross_entropy(objective):
    real, fake = LOGITS[1:-1], LOGITS[1:-1][::-1]
    expected = -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake))
    np.testing.assert_allclose(objective(real, fake)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("objective", gan.OBJECTIVES)
def test_the_border_is_where_a_discriminator_that_does_not_know_stands(objective):
    """The output that minimises the loss of D if an image is as likely real as generated."""
    outputs = tf.linspace(-2.0, 2.0, 401)
    loss, _ = gan.OBJECTIVES[objective](outputs, outputs)
    border = gan.BORDERS[objective]
    if border is None:  # any output is as good as another
        np.testing.assert_allclose(loss, 0.0, atol=1e-6)
        return
    lowest = outputs.numpy()[loss.numpy() <= loss.numpy().min() + 1e-6]
    np.testing.assert_allclose(lowest.mean(), border, atol=0.01)
    found = gan.accuracies(
        border + tf.constant([0.1, -0.1]), border + tf.constant([0.2, -0.2]), objective
    )
    assert found["real_accuracy"].numpy().tolist() == [1.0, 0.0]
    assert found["fake_accuracy"].numpy().tolist() == [0.0, 1.0]
    assert made(objective=objective).score_border == border


def test_generator_of_the_game():
    fake = LOGITS[1:-1]
    np.testing.assert_allclose(gan.minimax(fake, fake)[1], np.log(1 - sigmoid(fake)), rtol=1e-4)
    np.testing.assert_allclose(gan.non_saturating(fake, fake)[1], -np.log(sigmoid(fake)), rtol=1e-4)


def test_the_lectures_fix_is_steep_where_the_discriminator_wins():
    """dG/dlogit at logit -30: minimax -> 0, non-saturating -> -1; both finite at either end."""
    slopes = {}
    for objective in (gan.minimax, gan.non_saturating):
        with tf.GradientTape() as tape:
            tape.watch(LOGITS)
            loss = tf.reduce_sum(objective(LOGITS, LOGITS)[1])
        slopes[objective.__name__] = tape.gradient(loss, LOGITS).numpy()
        assert np.isfinite(slopes[objective.__name__]).all()
    assert abs(slopes["minimax"][0]) < 1e-6
    assert slopes["non_saturating"][0] == pytest.approx(-1.0)


@pytest.mark.parametrize("name", gan.OBJECTIVES)
def test_networks_pull_against_each_other(name):
    """G gains by a higher logit of its image, D by a lower one, and by a higher one of a real."""
    objective = gan.OBJECTIVES[name]
    logits = tf.constant([0.3, 0.5, 0.7])
    with tf.GradientTape(persistent=True) as tape:
        real, fake = tf.identity(logits), tf.identity(logits)
        tape.watch([real, fake])
        d_loss, g_loss = (tf.reduce_sum(loss) for loss in objective(real, fake))
    assert (tape.gradient(d_loss, real) < 0).numpy().all()
    assert (tape.gradient(d_loss, fake) > 0).numpy().all()
    assert (tape.gradient(g_loss, fake) < 0).numpy().all()


@pytest.mark.parametrize(
    ("name", "d_loss", "g_loss"),
    [
        ("least_squares", [5.0, 0.25, 0.5], [8.0, 1.125, 0.5]),
        ("hinge", [0.0, 1.0, 2.0], [3.0, 0.5, 0.0]),
        ("wasserstein_gp", [-5.0, -1.0, 0.0], [3.0, 0.5, 0.0]),
    ],
)
def test_other_objectives(name, d_loss, g_loss):
    real, fake = tf.constant([2.0, 0.5, 0.0]), tf.constant([-3.0, -0.5, 0.0])
    found = gan.OBJECTIVES[name](real, fake)
    np.testing.assert_allclose(found[0], d_loss)
    np.testing.assert_allclose(found[1], g_loss)


def linear_discriminator(model: GAN, norm: float) -> None:
    """Puts D(x) = w x in the model's place, with |w| = norm, so that every gradient is w."""
    size = np.prod(model.image_shape)

    def logits(real_or_fake, labels, training=False):
        return norm / np.sqrt(size) * tf.reduce_sum(real_or_fake, (1, 2, 3))

    model._logits = logits


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_penalties_of_a_linear_discriminator(norm):
    """(|w| - 1)^2 and r1 / 2 |w|^2, whatever the images."""
    model = GAN(objective="wasserstein_gp", gradient_penalty=7.0, r1=3.0, **TINY)
    linear_discriminator(model, norm)
    images, seeds = tf.constant(laws.images_for(model, 4)), tf.range(4, dtype=tf.int64)
    loss = model.discriminator_losses(images, None, seeds, True)["discriminator_loss"]
    model.gradient_penalty = model.r1 = 0.0
    bare = model.discriminator_losses(images, None, seeds, True)["discriminator_loss"]
    expected = 7.0 * (norm - 1) ** 2 + 1.5 * norm**2
    np.testing.assert_allclose(loss - bare, expected, rtol=1e-4, atol=1e-5)


def test_penalty_reaches_the_discriminator():
    """The penalty is under the tape: it alone has a gradient."""
    model = GAN(objective="wasserstein_gp", **TINY)
    images, seeds = tf.constant(laws.images_for(model, 4)), tf.range(4, dtype=tf.int64)
    real = tf.cast(images, tf.float32) / 127.5 - 1.0
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(gan.penalty(lambda x: model._logits(x, None), real, -real, seeds))
    kernel = model.discriminator.get_layer("stage_0_conv").kernel.value
    assert np.abs(tape.gradient(loss, kernel)).max() > 0


@pytest.mark.parametrize(
    "penalised", [{"r1": 3.0}, {"objective": "wasserstein_gp", "gradient_penalty": 7.0}]
)
def test_penalties_train_the_discriminator(penalised):
    """By the gradients of the penalties as their papers write them."""
    model = laws.randomised(GAN(**TINY, **penalised))
    images, seeds = tf.constant(laws.images_for(model, 4)), tf.range(4, dtype=tf.int64)
    real = pixels.images_to_pixels(images)
    kernels = [variable.value for variable in model.discriminator.trainable_variables]

    def gradients(losses):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses())
        return tape.gradient(loss, kernels, unconnected_gradients="zero")

    def slope_penalty():
        u = noise.uniform(seeds, (1, 1, 1), stream=gan.MIX_STREAM)
        fake = model._generate(model.generator, seeds, None)
        x = real if "r1" in penalised else u * real + (1.0 - u) * fake
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = tf.reduce_sum(model._logits(x, None))
        squared = tf.reduce_sum(tf.square(tape.gradient(logits, x)), (1, 2, 3))
        return 1.5 * squared if "r1" in penalised else 7.0 * tf.square(tf.sqrt(squared) - 1.0)

    def loss():
        return model.discriminator_losses(images, None, seeds, True)["discriminator_loss"]

    whole, expected = gradients(loss), gradients(slope_penalty)
    model.r1 = model.gradient_penalty = 0.0
    assert max(np.abs(gradient).max() for gradient in expected) > 1e-3
    for own, without, alone in zip(whole, gradients(loss), expected, strict=True):
        np.testing.assert_allclose(own - without, alone, rtol=1e-3, atol=1e-4)


def test_penalty_is_taken_between_real_and_generated():
    """At u real + (1 - u) fake, u in (0, 1) of each image's own seed."""
    seen = []
    seeds = tf.range(4, dtype=tf.int64)
    real, fake = tf.ones((4, 8, 8, 1)), tf.fill((4, 8, 8, 1), -1.0)
    gan.penalty(lambda x: seen.append(x) or tf.reduce_sum(x, (1, 2, 3)), real, fake, seeds)
    u = noise.uniform(seeds, (1, 1, 1), stream=gan.MIX_STREAM)
    np.testing.assert_allclose(seen[0], u * real + (1.0 - u) * fake, atol=1e-6)
    assert len(np.unique(seen[0])) == 4


# The two updates


def updates_touch_their_own_network(model: GAN) -> None:
    """D's update moves D's weights alone, G's G's alone, state included."""
    images = tf.constant(laws.images_for(model, 6))
    labels = None if model.num_classes is None else tf.constant(laws.labels_for(model, 6))
    seeds = tf.range(6, dtype=tf.int64)
    updates = {
        "discriminator": lambda: model.discriminator_losses(images, labels, seeds, True),
        "generator": lambda: model.generator_losses(labels, seeds, True),
    }
    for name, losses in updates.items():
        network = getattr(model, name)
        other = model.generator if name == "discriminator" else model.discriminator
        own, foreign = network.get_weights(), other.get_weights()
        model._update(f"{name}_optimizer", losses, None)
        assert any((a != b).any() for a, b in zip(network.get_weights(), own, strict=True))
        for a, b in zip(other.get_weights(), foreign, strict=True):
            assert (a == b).all(), f"the update of the {name} moved the other network"


class LeakyUpdate(GAN):
    """Updates with one tape over both networks, as a careless train_step does."""

    def _update(self, name, losses_of, weight):
        with tf.GradientTape() as tape:
            losses = losses_of()
            loss = tf.reduce_mean(next(iter(losses.values())))
        both = self.generator.trainable_variables + self.discriminator.trainable_variables
        for variable, gradient in zip(both, tape.gradient(loss, both), strict=True):
            if gradient is not None:
                variable.assign_sub(0.01 * gradient)
        return losses


class LeakyState(GAN):
    """Moves the spectral normalisation's vectors in G's update, too."""

    def generator_losses(self, labels, seeds, training=False):
        images = self._generate(self.generator, seeds, labels)
        logits = self.discriminator(images, training=training)[:, 0]
        return {"generator_loss": -logits}


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("num_classes", [None, 2])
def test_updates_touch_their_own_network(spectral, num_classes):
    updates_touch_their_own_network(made(spectral_normalization=spectral, num_classes=num_classes))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_spectral_normalisation_in_mixed_precision(dtype):
    """The logit and the kernels keep 32 bits."""
    model = made(spectral_normalization=True, r1=1.0, candidates=2, dtype=dtype)
    images = laws.images_for(model, 4)
    model.compile(jit_compile=False)
    model.fit(images, verbose=0)
    assert model.score(images).dtype == np.float32
    assert model(images).dtype == tf.float32
    model.sample(2, seed=0)
    wrapped = [each for each in model.discriminator.layers if hasattr(each, "vector_u")]
    short = tf.as_dtype(wrapped[0].layer.compute_dtype)
    assert short.size == 2
    for each in wrapped:
        kernel = each.layer.kernel.value
        assert kernel.dtype == tf.float32
        assert np.any(kernel != tf.cast(tf.cast(kernel, short), tf.float32))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_that_are_not_mixed_are_refused(dtype):
    with pytest.raises(ValueError, match=f"dtype must be float32, mixed.*received {dtype}"):
        made(dtype=dtype)


@pytest.mark.parametrize("name", ["generator_optimizer", "discriminator_optimizer"])
def test_an_average_of_an_optimizer_is_refused(name):
    """Keras would fail with it at the end of `fit`."""
    with pytest.raises(ValueError, match=f"{name}: use_ema must be False"):
        made().compile(**{name: keras.optimizers.Adam(use_ema=True)})


def test_leaky_updates_are_caught():
    for broken, arguments in ((LeakyUpdate, {}), (LeakyState, {"spectral_normalization": True})):
        model = broken(**TINY, **arguments)
        model.compile()
        with pytest.raises(AssertionError, match="moved the other network"):
            updates_touch_their_own_network(model)


@pytest.mark.parametrize("steps", [1, 3])
def test_discriminator_first_and_as_often_as_asked(steps):
    model = made(discriminator_steps=steps)
    order = []
    update = model._update

    def recorded(name, losses_of, weight):
        order.append(name)
        return update(name, losses_of, weight)

    model._update = recorded
    model.run_eagerly = True
    model.train_on_batch(laws.images_for(model, 4))
    assert order == ["discriminator_optimizer"] * steps + ["generator_optimizer"]
    assert int(model.optimizer.iterations) == 1
    assert int(model.discriminator_optimizer.iterations) == steps


def test_every_update_has_its_own_noise():
    model = made(discriminator_steps=3)
    seen = []
    generate = model._generate

    def recorded(generator, seeds, labels):
        seen.append(seeds.numpy())
        return generate(generator, seeds, labels)

    model._generate = recorded
    model.run_eagerly = True
    for _ in range(2):
        model.train_on_batch(laws.images_for(model, 5))
    assert len(np.unique(np.concatenate(seen))) == 2 * 4 * 5


@pytest.mark.slow
def test_discriminator_overfits_one_batch():
    """Against a generator that stands still, D tells the two apart."""
    model = made()
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.Adam(0.01), jit_compile=False)
    batches = tf.data.Dataset.from_tensors(laws.images_for(model, 8)).repeat()
    history = model.fit(batches, epochs=1, steps_per_epoch=60, verbose=0).history
    assert history["discriminator_loss"][-1] < 0.5
    logs = model.evaluate(laws.images_for(model, 8), verbose=0, return_dict=True)
    assert logs["real_accuracy"] == logs["fake_accuracy"] == 1.0


@pytest.mark.slow
def test_generator_follows_a_discriminator_that_stands_still():
    """D(x) = sum of pixels: G learns to draw white."""
    model = made(objective="wasserstein_gp", gradient_penalty=0.0, ema_momentum=0.5)
    linear_discriminator(model, 1.0)
    seeds = tf.range(8, dtype=tf.int64)
    for step in range(60):
        model._update(
            "generator_optimizer",
            lambda step=step: model.generator_losses(None, seeds + 8 * step),
            None,
        )
    model.averaged_generator.set_weights(model.generator.get_weights())
    assert model.sample(8, seed=0).mean() > 250


# The averaged generator


@pytest.mark.slow
def test_averaged_generator_equals_a_plain_computation():
    model = made(ema_momentum=0.3)  # what counts from the third step on
    expected = model.generator.get_weights()
    for step in range(1, 6):
        model.train_on_batch(laws.images_for(model, 4, seed=step))
        keep = min(0.3, (1 + step) / (10 + step))
        expected = [
            keep * average + (1 - keep) * weight
            for average, weight in zip(expected, model.generator.get_weights(), strict=True)
        ]
    for own, value in zip(model.averaged_generator.get_weights(), expected, strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-5, atol=1e-7)
    assert not {id(v) for v in model.averaged_generator.variables} & {
        id(v) for v in model.trainable_variables
    }


def test_samples_come_from_the_averaged_generator():
    model = laws.randomised(made())
    before = model.sample(4, seed=0)
    for variable in model.generator.variables:
        variable.assign(variable + 1.0)
    np.testing.assert_array_equal(model.sample(4, seed=0), before)
    pixels = model.averaged_generator(model.latents(4, seed=0))
    assert np.abs((pixels + 1) * 127.5 - before).max() <= 0.51


# Candidates


def test_one_candidate_is_no_choice():
    model = laws.randomised(made())
    plain = model.latents(5, seed=3)
    expected = noise.normal(tf.range(3, 8, dtype=tf.int64), (3,))
    np.testing.assert_allclose(plain, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [None, 2])
def test_a_selective_choice_is_the_discriminators_favourite(num_classes):
    model = laws.randomised(made(candidates=6, selectivity=1e6, num_classes=num_classes), scale=0.5)
    labels = None if num_classes is None else np.arange(20) % 2
    drawn = noise.normal(tf.range(20, dtype=tf.int64), (6, 3)).numpy()
    repeated = None if labels is None else tf.constant(np.repeat(labels, 6))
    flat = tf.constant(drawn.reshape(-1, 3))
    images = model.averaged_generator(flat if repeated is None else [flat, repeated])
    logits = model._logits(images, repeated).numpy().reshape(20, 6)
    expected = drawn[np.arange(20), logits.argmax(1)]
    np.testing.assert_allclose(model.latents(20, seed=0, labels=labels), expected, atol=1e-5)
    images = model.sample(20, seed=0, labels=labels)
    laws.assert_close_images(model.decode(expected, labels=labels), images, 256)


@pytest.mark.parametrize("objective", ["non_saturating", "hinge", "least_squares"])
def test_candidates_are_chosen_in_proportion(objective):
    """Selectivity s: with weights (D / (1 - D))^s over the candidates, and evenly at 0.

    D is what least squares' network puts out, and else the sigmoid of it.
    """
    count = 4000
    for selectivity in (0.0, 2.0):
        options = {"candidates": 3, "selectivity": selectivity, "objective": objective}
        model = laws.randomised(made(**options), scale=0.5)
        drawn = noise.normal(tf.range(count, dtype=tf.int64), (3, 3)).numpy()
        images = model.averaged_generator(drawn.reshape(-1, 3))
        logits = np.float64(model._logits(images, None)).reshape(count, 3)
        weights = np.exp(selectivity * logits)
        if objective == "least_squares":
            share = np.clip(logits, 1e-3, 1 - 1e-3)
            weights = (share / (1 - share)) ** selectivity
        weights /= weights.sum(1, keepdims=True)
        latents = model.latents(count, seed=0)
        chosen = np.isclose(latents[:, None], drawn, atol=1e-5).all(-1)
        assert (chosen.sum(1) == 1).all()
        ranks = weights.argsort(1)
        for rank in range(3):  # the weakest, the middle and the strongest candidate
            expected = np.take_along_axis(weights, ranks[:, [rank]], 1)[:, 0]
            found = np.take_along_axis(chosen, ranks[:, [rank]], 1)[:, 0]
            error = np.sqrt((expected * (1 - expected)).sum()) / count
            assert abs(found.mean() - expected.mean()) < 5 * error


# Latents


def test_latents_are_those_of_sample():
    model = laws.randomised(made(num_classes=2, candidates=3))
    labels = [0, 1, 0, 1, 0]
    latents = model.latents(5, labels=labels, seed=7)
    assert latents.shape == (5, 3)
    laws.assert_close_images(
        model.decode(latents, labels=labels), model.sample(5, labels=labels, seed=7), 256
    )


def test_samples_of_a_class_are_the_averaged_generators():
    model = laws.randomised(made(num_classes=3))
    seeds = tf.range(6, dtype=tf.int64)
    outputs = model.averaged_generator([noise.normal(seeds, (3,)), seeds % 3])
    drawn = model.sample(6, seed=0, labels=np.arange(6) % 3)
    assert np.abs((outputs + 1) * 127.5 - drawn).max() <= 0.51


@pytest.mark.parametrize("network", gan_networks.NETWORKS)
def test_every_kernel_of_the_discriminator_is_normalised(network):
    """But its embedding of the classes is not."""
    shape = {"filters": (4, 6), "num_blocks": 1, "num_classes": 3}  # widths that need a skip
    model = laws.randomised(made(network=network, spectral_normalization=True, **shape))
    for _ in range(50):
        model._logits(tf.ones((3, 8, 8, 1)), tf.range(3, dtype=tf.int64), training=True)
    wrapped = [each for each in model.discriminator.layers if hasattr(each, "vector_u")]
    bare = {each.name for each in model.discriminator.layers if each.weights} - {
        each.name for each in wrapped
    }
    assert bare == {"embedding"}
    for each in wrapped:
        kernel = each.layer.kernel.numpy()
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False).max()
        assert largest == pytest.approx(1.0, abs=0.05), each.name


def test_latents_need_a_class_where_it_matters():
    one = made(num_classes=2)
    np.testing.assert_array_equal(one.latents(3, seed=0), one.latents(3, labels=1, seed=0))
    with pytest.raises(ValueError, match="labels are required"):
        made(num_classes=2, candidates=2).latents(3, seed=0)
    with pytest.raises(ValueError, match="labels must be left out"):
        made().latents(3, labels=1, seed=0)


@pytest.mark.parametrize("wrong", [0, -1, 2.5])
def test_a_number_of_latents_is_checked(wrong):
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1"):
        made().latents(wrong, seed=0)


def test_temperature_scales_the_latents():
    model, seeds = made(), tf.range(3, dtype=tf.int64)
    half, whole = (model._chosen_latents(seeds, None, temperature) for temperature in (0.5, 1.0))
    np.testing.assert_allclose(half, 0.5 * whole)


def test_interpolation_between_latents():
    model = laws.randomised(made())
    a, b = model.latents(3, seed=0), model.latents(3, seed=10)
    line = model.interpolate(a, b, 4)
    assert line.shape == (3, 4, 8, 8, 1)
    laws.assert_close_images(line[:, 0], model.decode(a), 256)
    laws.assert_close_images(line[:, 1], model.decode(2 / 3 * a + 1 / 3 * b), 256)
    laws.assert_close_images(line[:, -1], model.decode(b), 256)
    for wrong in (a[:2], a[:, :2], a * np.nan):
        with pytest.raises(ValueError, match=r"latents must|the same number"):
            model.interpolate(wrong, b)


def test_scores_tell_real_from_drawn():
    model = made(objective="hinge")
    images = np.full((8, 8, 8, 1), 255, np.uint8)
    batches = tf.data.Dataset.from_tensors(images).repeat()
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(batches, epochs=1, steps_per_epoch=40, verbose=0)
    assert model.score(images).min() > 0 > model.score(model.sample(8, seed=0)).max()
    np.testing.assert_allclose(model(images), model.score(images), rtol=1e-5)


# Whole-state save and resume


def recipe_of(objective: str) -> Recipe:
    return Recipe.from_dict(
        {
            "family": "GAN",
            "model": {**TINY, "image_shape": [8, 8, 1], "filters": [4], "objective": objective},
            "data": "digits",
            "batch_size": 179,
            "epochs": 2,
            "learning_rate": 0.002,
            "learning_rates": {"discriminator_optimizer": 0.004},
            "betas": [0.5, 0.99],
            "warmup_steps": 3,
            "clip_norm": None,
            "ema_momentum": 0.0,
            "jit_compile": False,
            "seed": 3,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", gan.OBJECTIVES)
def test_resumed_run_equals_a_whole_one(objective, tmp_path):
    recipe = recipe_of(objective)
    whole = training.train(recipe, tmp_path / "whole", verbose=0)
    runs.cut_off(recipe, tmp_path / "cut", 11)
    resumed = runs.assert_resumes(recipe, tmp_path / "cut", whole, tmp_path / "whole")
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) > 11
    for name, (optimizer, _) in resumed.optimizers.items():
        for own, expected in zip(
            optimizer.variables, whole.optimizers[name][0].variables, strict=True
        ):
            np.testing.assert_array_equal(own, expected, err_msg=own.path)


@pytest.mark.slow
@pytest.mark.parametrize("objective", gan.OBJECTIVES)
def test_keras_own_backup_keeps_the_whole_state(objective, tmp_path):
    """BackupAndRestore: a run that fails after an epoch goes on to the same end."""
    images = laws.images_for(made(), 12)
    options = {"epochs": 3, "batch_size": 4, "shuffle": False, "verbose": 0}

    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise runs.Interruption

    whole = made(objective=objective)
    whole.fit(images, **options)
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(runs.Interruption):
        made(objective=objective).fit(images, callbacks=[backup, Fails()], **options)
    resumed = made(objective=objective)
    resumed.fit(images, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)], **options)
    for own, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert int(resumed.discriminator_optimizer.iterations) == 9
    # Keras would begin the next `fit` where the restored one began.
    assert resumed.fit(images, **options | {"epochs": 1}).epoch == [0]


@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_steps_count_and_have_fresh_noise_while_a_network_is_frozen(part):
    model = made()
    model.freeze(part)
    frozen = [weight.numpy() for weight in getattr(model, part).variables]
    seen = []

    def losses(*given, whole=model.discriminator_losses):
        seen.append(given[2].numpy())
        return whole(*given)

    model.discriminator_losses = losses
    model.run_eagerly = True
    model.fit(laws.images_for(model, 12), epochs=2, batch_size=4, verbose=0)
    assert model.steps_trained == 6
    assert len({tuple(seeds) for seeds in seen}) == 6
    for own, before in zip(getattr(model, part).variables, frozen, strict=True):
        np.testing.assert_array_equal(own, before)


@pytest.mark.parametrize("how", ["freeze", "attribute"])
def test_frozen_kernels_stay_under_spectral_normalisation(how):
    """Keras' layer divides its kernel in every training step, frozen or not."""
    model = made(spectral_normalization=True)
    if how == "freeze":
        model.freeze("discriminator")
    else:
        model.discriminator.trainable = False
    before = [weight.numpy() for weight in model.discriminator.variables]
    model.fit(laws.images_for(model, 8), batch_size=4, verbose=0)
    for own, value in zip(model.discriminator.variables, before, strict=True):
        np.testing.assert_array_equal(own, value)


@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_regularisers_move_the_network_that_has_them(part):
    """So strong a penalty that it alone decides: each weight goes towards zero."""
    model = made(discriminator_steps=1)
    layer = next(layer for layer in getattr(model, part).layers if hasattr(layer, "kernel"))
    layer.kernel.regularizer = keras.regularizers.L2(1e6)
    before = layer.kernel.numpy()
    model.fit(laws.images_for(model, 4), batch_size=4, verbose=0)
    far = np.abs(before) > 0.02  # Adam's first step is one rate, 0.01
    assert far.any()
    assert (np.abs(layer.kernel.numpy()) < np.abs(before))[far].all()


class AddsLoss(GAN):
    """Adds the generator's loss once more, by Keras' own way."""

    def generator_losses(self, labels, seeds, training=False):
        losses = super().generator_losses(labels, seeds, training)
        self.add_loss(tf.reduce_mean(losses["generator_loss"]))
        return losses


def test_a_loss_that_is_added_counts_in_its_own_update():
    moves = {}
    for family in (GAN, AddsLoss):
        keras.utils.set_random_seed(2)
        model = family(**TINY)
        model.compile(*[keras.optimizers.SGD(0.1) for _ in range(2)], run_eagerly=True)
        networks = model.discriminator, model.generator
        before = [network.get_weights() for network in networks]
        model.train_on_batch(laws.images_for(model, 4))
        moves[family] = [
            [own - old for own, old in zip(network.get_weights(), weights, strict=True)]
            for network, weights in zip(networks, before, strict=True)
        ]
    for factor, plain, added in zip((1.0, 2.0), *moves.values(), strict=True):
        for own, other in zip(added, plain, strict=True):
            np.testing.assert_allclose(own, factor * other, rtol=1e-3, atol=1e-6)


def test_no_stray_optimizer():
    model = made()
    optimizers = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    assert len({id(optimizer) for optimizer in optimizers}) == 2
    assert model.optimizer is model.optimizers["generator_optimizer"][0]


def test_each_optimizer_has_its_rate():
    model = training.build(recipe_of("hinge"))
    rates = {
        name: optimizer.get_config()["learning_rate"]["config"]
        for name, (optimizer, _) in model.optimizers.items()
    }
    assert rates["generator_optimizer"]["peak"] == 0.002
    assert rates["discriminator_optimizer"]["peak"] == 0.004


def test_a_recipe_s_numbers_reach_every_optimizer():
    """The discriminator makes two updates a step, so its schedule is twice as long."""
    recipe = recipe_of("hinge").to_dict()
    recipe |= {"clip_norm": 2.0, "final_fraction": 0.25, "epochs": 4, "restart_epochs": [1]}
    recipe["model"]["discriminator_steps"] = 2
    optimizers = training.build(Recipe.from_dict(recipe), 10).optimizers
    for name, updates in (("generator_optimizer", 1), ("discriminator_optimizer", 2)):
        optimizer, _ = optimizers[name]
        assert (optimizer.beta_1, optimizer.beta_2) == (0.5, 0.99)
        assert optimizer.global_clipnorm == 2.0
        schedule = optimizer.get_config()["learning_rate"]["config"]
        assert (schedule["final"], schedule["warmup_steps"]) == (0.25, 3)
        assert schedule["ends"] == [10 * updates, 40 * updates]


# Bad input and faults


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "gan"}, "objective must be one of minimax, .*'gan'"),
        (
            {"discriminator_steps": 0},
            "discriminator_steps must be an integer of at least 1; received 0",
        ),
        ({"r1": -1.0}, "r1 must be a finite number of at least 0"),
        (
            {"gradient_penalty": float("nan")},
            "gradient_penalty must be a finite number of at least 0; received nan",
        ),
        ({"ema_momentum": 1.0}, r"ema_momentum must lie in \[0, 1\)"),
        ({"generator_filters": (4, 4)}, "generator_filters must be a list of 1 integers"),
        ({"image_shape": (7, 8, 1)}, "image_shape must be divisible by 2"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        GAN(**{**TINY, **wrong})


def test_bad_optimizers():
    model = GAN(**TINY)
    one = keras.optimizers.Adam()
    with pytest.raises(ValueError, match=r"compile\(optimizer=...\) must be left out: a GAN has"):
        model.compile(optimizer="adam")
    with pytest.raises(ValueError, match="must be two objects"):
        model.compile(one, one)
    foreign = keras.optimizers.Adam()
    foreign.build(model.discriminator.trainable_variables)
    with pytest.raises(ValueError, match="generator_optimizer must be new, or built for the var"):
        model.compile(generator_optimizer=foreign)
    model.compile(discriminator_optimizer=foreign)


def test_unknown_optimizer_in_a_recipe():
    recipe = recipe_of("hinge").to_dict() | {"learning_rates": {"optimizer": 1e-3}}
    with pytest.raises(ValueError, match="learning_rates must name optimizers of GAN, generator_"):
        training.build(Recipe.from_dict(recipe))


@pytest.mark.slow
def test_divergence_stops_the_run(tmp_path, monkeypatch):
    """The message names the epoch and the last good checkpoint, which stays as it was."""
    monkeypatch.setattr(checkpoint, "CHECK_EVERY", 1)
    recipe = recipe_of("wasserstein_gp")
    losses = GAN.generator_losses

    def explode(self, labels, seeds, training):
        bad = tf.where(self.optimizer.iterations >= 9, np.float32(np.nan), np.float32(1.0))
        return {name: bad * value for name, value in losses(self, labels, seeds, training).items()}

    monkeypatch.setattr(GAN, "generator_losses", explode)
    with pytest.raises(
        FloatingPointError,
        match=r"diverged in epoch 2: generator_loss is nan.*good checkpoint: .*checkpoint-0+9\.",
    ):
        training.train(recipe, tmp_path / "run", verbose=0, checkpoint_seconds=0.0)
    newest = max((tmp_path / "run").glob("checkpoint-*.npz"))
    with np.load(newest) as arrays:
        assert json.loads(bytes(arrays["state"]))["step"] == 9
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files if name != "state")


def test_conditional_gan_of_one_class(tmp_path):
    images, labels = data.arrays("digits", "train")
    np.savez(tmp_path / "one.npz", images=images, labels=0 * labels)
    recipe = recipe_of("hinge").to_dict() | {"data": str(tmp_path / "one.npz")}
    recipe["model"]["num_classes"] = 10
    with pytest.raises(ValueError, match="needs at least two classes"):
        training.train(Recipe.from_dict(recipe), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("objective", ["non_saturating", "wasserstein_gp"])
def test_both_updates_see_the_live_generator_and_the_right_classes(objective, num_classes):
    """Neither loss reads the averaged generator: its fakes are those of a generator long past."""
    model = laws.randomised(made(objective=objective, num_classes=num_classes))
    model.averaged_generator.set_weights([w + 1.0 for w in model.generator.get_weights()])
    images = tf.constant(laws.images_for(model, 5))
    seeds = tf.range(5, dtype=tf.int64)
    labels = None if num_classes is None else seeds % num_classes
    reals = pixels.images_to_pixels(images)
    fakes = model.generator(with_labels(noise.normal(seeds, (model.latent_dim,)), labels))

    def logits(x):
        return model.discriminator(with_labels(x, labels))[:, 0]

    d_loss, g_loss = gan.OBJECTIVES[objective](logits(reals), logits(fakes))
    if objective == "wasserstein_gp":
        d_loss += model.gradient_penalty * gan.penalty(logits, reals, fakes, seeds)
    losses = model.discriminator_losses(images, labels, seeds, True)
    np.testing.assert_allclose(losses["discriminator_loss"], d_loss, rtol=1e-4)
    losses = model.generator_losses(labels, seeds)
    np.testing.assert_allclose(losses["generator_loss"], g_loss, rtol=1e-5)


# Augmentation


def test_augmentation_follows_its_formula():
    images = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16, 3)).astype(np.float32)
    seeds = tf.range(6, dtype=tf.int64)
    found = gan_networks.augmented(tf.constant(images), seeds)
    drawn = noise.uniform(seeds, (5,)).numpy()
    for image, own, (brightness, saturation, contrast, *shifts) in zip(
        images, found, drawn, strict=True
    ):
        x = image + 0.5 * brightness - 0.25
        x = x.mean(2, keepdims=True) + (x - x.mean(2, keepdims=True)) * (0.5 + saturation)
        x = x.mean() + (x - x.mean()) * (0.5 + contrast)
        down, right = (np.clip(np.arange(16) + int(5 * shift) - 2, 0, 15) for shift in shifts)
        np.testing.assert_allclose(own, x[down][:, right], atol=1e-5)
    assert len({int(5 * shift) for shift in drawn[:, 3:].flat}) > 2


def test_both_networks_train_on_augmented_images(monkeypatch):
    """Were generated images left out, D would learn to spot the augmentation (Zhao et al.)."""
    model = made(augment=True)
    images, seeds = tf.constant(laws.images_for(model, 5)), tf.range(5, dtype=tf.int64)
    seen = []

    def augmented(images, seeds):
        seen.append((len(images), len(set(seeds.numpy()))))
        return 0.5 * images

    monkeypatch.setattr(gan_networks, "augmented", augmented)
    found = {}
    for training_now in (False, True):
        d_losses = model.discriminator_losses(images, None, seeds, training_now)
        g_losses = model.generator_losses(None, seeds, training_now)
        found[training_now] = d_losses["discriminator_loss"], g_losses["generator_loss"]
    assert seen == [(10, 10), (5, 5)]
    for plain, changed in zip(found[False], found[True], strict=True):
        assert (plain != changed).numpy().any()


def test_a_step_trains_on_augmented_images_with_a_normalised_discriminator(monkeypatch):
    model = made(spectral_normalization=True, augment=True, discriminator_steps=2)
    model.compile(run_eagerly=True)
    sizes, augmented = [], gan_networks.augmented
    monkeypatch.setattr(
        gan_networks, "augmented", lambda x, seeds: sizes.append(len(x)) or augmented(x, seeds)
    )
    wrapped = [layer for layer in model.discriminator.layers if hasattr(layer, "vector_u")]
    before = [layer.vector_u.numpy() for layer in wrapped]
    images = laws.images_for(model, 4)
    model.test_on_batch(images)
    assert sizes == []
    model.train_on_batch(images)
    assert sizes == [8, 8, 4]  # D sees real and generated images, twice; then G
    assert wrapped
    for layer, old in zip(wrapped, before, strict=True):
        assert (layer.vector_u.numpy() != old).any(), layer.name


def test_the_critic_s_penalty_sees_augmented_images_alone(monkeypatch):
    model = made(augment=True, objective="wasserstein_gp")
    monkeypatch.setattr(gan_networks, "augmented", lambda images, seeds: 0.0 * images + 0.25)
    seen, logits_of = [], model._logits

    def noted(images, labels, training=False):
        seen.append(images)
        return logits_of(images, labels, training)

    monkeypatch.setattr(model, "_logits", noted)
    images, seeds = tf.constant(laws.images_for(model, 5)), tf.range(5, dtype=tf.int64)
    model.discriminator_losses(images, None, seeds, True)
    assert len(seen) == 2  # the losses, and the penalty
    for shown in seen:
        np.testing.assert_allclose(shown, 0.25, atol=1e-6)


def test_an_average_gets_no_adapter_of_its_own():
    model = made()
    for pattern in ("averaged_generator", "averaged_*"):
        with pytest.raises(ValueError, match=r"patterns must not match 'averaged_generator/"):
            model.enable_lora(2, pattern)
    assert model.enable_lora(2, "*generator")
    model.compile(run_eagerly=True)
    model.train_on_batch(laws.images_for(model, 4))
