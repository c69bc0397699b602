"""The maths of the VAE: bounds, KL, priors, chunks, warm-up, labels."""

import inspect
import math

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfgen import GAN, VAE, HierarchicalVAE, noise, pixels
from tfgen.models import ladder_layers, pixel_decoder, vae
from tfgen.models.generative import with_labels

SMALL = {"filters": (4,), "dense_units": 8, "num_blocks": 0}
BINARY = {"image_shape": (4, 4, 1), "pixel_distribution": "bernoulli", "num_levels": 2, **SMALL}


@pytest.fixture(scope="module")
def binary_images():
    return np.random.default_rng(1).choice(np.uint8([0, 255]), (6, 4, 4, 1))


def test_many_samples_of_an_unlikely_image_all_count():
    """To a sum of -10,000 nats float32 adds no small terms."""

    @tf.function
    def bound():
        return pixel_decoder.importance_bound(
            lambda index, count: tf.fill((1, count), -10_000.0), 100_000, 1
        )

    np.testing.assert_allclose(bound(), -10_000.0, atol=0.01)


@pytest.fixture(scope="module")
def line(binary_images):
    """A binary VAE with one latent, whose integral over it can be done by summing.

    It is fitted a little: a random posterior is too far off for any number of samples, and a
    narrow one misses the rare latents that matter.
    """
    keras.utils.set_random_seed(0)
    model = VAE(latent_dim=1, **BINARY)
    laws.fit_quickly(model, binary_images, None, steps=15)
    return model


def log_pixels(model, images, latents, labels=None) -> np.ndarray:
    """log p(x | z) for each image at each latent, float64 (batch, latents)."""
    levels = pixels.images_to_levels(images, model.num_levels)[:, None]
    return model.pixel_likelihood(latents, labels=labels).log_prob(levels).numpy().astype(float)


def by_quadrature(model, images) -> np.ndarray:
    """log p(x) = log int p(z) p(x | z) dz in nats, float64 (batch,)."""
    z = np.linspace(-8, 8, 4001)
    values = log_pixels(model, images, z[:, None].astype(np.float32))
    return special.logsumexp(values + stats.norm.logpdf(z), axis=1) + math.log(z[1] - z[0])


def draws_of_the_bound(model, images, num_samples: int, draws: int = 400) -> np.ndarray:
    """Independent draws of the bound, (draws, batch)."""
    repeated = np.repeat(images, draws, axis=0)
    values = model.log_likelihood(
        repeated, num_samples=num_samples, seed=17, batch_size=len(repeated)
    )
    return values.reshape(len(images), draws).T.astype(float)


@pytest.mark.slow
def test_bounds_lie_in_order_below_the_truth(line, binary_images):
    """E ELBO <= E IWAE_5 <= E IWAE_50 <= log p(x), and 50 samples come close to it."""
    truth = by_quadrature(line, binary_images)
    assert np.isfinite(truth).all()
    previous, previous_error = None, 0.0
    for k in (1, 5, 50):
        drawn = draws_of_the_bound(line, binary_images, k)
        mean, error = drawn.mean(0), drawn.std(0) / math.sqrt(len(drawn))
        assert (mean <= truth + 4 * error).all(), k
        if previous is not None:
            assert (mean >= previous - 4 * (error + previous_error)).all(), k
            assert mean.sum() > previous.sum()
        previous, previous_error = mean, error
    assert (draws_of_the_bound(line, binary_images, 1).mean(0) < truth - 0.01).any()
    many = line.log_likelihood(binary_images, num_samples=20_000)
    np.testing.assert_allclose(many, truth, atol=0.05)


def test_quadrature_sums_to_one():
    """So that the truth above is one."""
    images = laws.all_images((2, 2, 1))
    model = laws.randomised(VAE(latent_dim=1, **{**BINARY, "image_shape": (2, 2, 1)}), 0.5)
    assert np.exp(by_quadrature(model, images)).sum() == pytest.approx(1, abs=1e-4)


def test_analytic_kl_equals_its_monte_carlo_mean(binary_images):
    model = laws.randomised(VAE(latent_dim=3, **BINARY))
    posterior, prior = model.posterior(binary_images), model.prior_distribution()
    z = posterior.sample(20_000, seed=(3, 4))
    drawn = (posterior.log_prob(z) - prior.log_prob(z)).numpy().astype(float)
    error = drawn.std(0) / math.sqrt(len(drawn))
    seeds = tf.range(6, dtype=tf.int64)
    kl = model.losses_per_image(tf.constant(binary_images), None, seeds, False)["kl"]
    assert (error < 0.1).all()
    assert (np.abs(kl - drawn.mean(0)) < 5 * error).all()


@pytest.mark.parametrize("num_classes", [None, 3])
def test_encoding_is_the_mean_of_the_posterior(binary_images, num_classes):
    model = laws.randomised(VAE(latent_dim=2, num_classes=num_classes, **BINARY))
    given = laws.given(model, laws.labels_for(model, 6))
    mean = model.posterior(binary_images, **given).mean()
    np.testing.assert_allclose(model.encode(binary_images, **given), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_encoding_follows_the_means_of_all_posteriors_of_a_ladder(num_classes):
    model = laws.randomised(HierarchicalVAE(**LADDER, num_classes=num_classes))
    images, labels = laws.images_for(model, 6), laws.labels_for(model, 6)
    found = model.encode(images, **laws.given(model, labels))
    features, top_down = model.bottom_up(tf.constant(images)), model.top_down
    labels = None if labels is None else tf.constant(labels)
    mean, _ = np.split(
        top_down.top_posterior(ladder_layers.with_class(features[-1], labels, num_classes)), 2, 1
    )
    np.testing.assert_allclose(found[:, : model.top_dim], mean, rtol=1e-5, atol=1e-6)
    zeros = tf.zeros((6, model.latent_dim))
    whole = top_down.infer(features, zeros, labels)["latents"]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
    other = top_down.infer(features, zeros + 1.0, labels)["latents"]
    assert (np.abs(found - other) > 1e-3).mean() > 0.8


@pytest.mark.slow_except("None")
@pytest.mark.parametrize("num_classes", [None, 3])
def test_importance_weighted_loss_is_the_bound(binary_images, num_classes):
    """The loss of k samples equals -log_likelihood of k samples from the same seeds."""
    arguments = BINARY | {"num_classes": num_classes, "num_importance_samples": 4}
    for prior in vae.PRIORS:
        model = laws.randomised(VAE(latent_dim=2, prior=prior, prior_components=2, **arguments))
        seeds, labels = tf.range(6, dtype=tf.int64), laws.labels_for(model, 6)
        losses = model.losses_per_image(
            tf.constant(binary_images),
            None if labels is None else tf.constant(labels),
            seeds,
            False,
        )
        scores = model.log_likelihood(
            binary_images, num_samples=4, seed=0, **laws.given(model, labels)
        )
        np.testing.assert_allclose(-losses["loss"], scores, rtol=1e-4)


# Passes over the importance samples


@pytest.mark.parametrize("num_samples", [49, 120])
def test_passes_equal_one_direct_computation(binary_images, num_samples):
    """Also where the samples fill no whole number of passes."""
    model = laws.randomised(VAE(latent_dim=2, prior="vamp", prior_components=3, **BINARY))
    per_pass = min(num_samples, pixel_decoder.SAMPLES_PER_PASS)
    seeds = tf.range(100, 106, dtype=tf.int64)
    passes = [
        noise.normal(seeds, (per_pass, 2), stream=i) for i in range(-(-num_samples // per_pass))
    ]
    eps = np.concatenate(passes, axis=1)[:, :num_samples]  # (batch, samples, latent_dim)
    posterior = model.posterior(binary_images).distribution
    expected = []
    for i, image in enumerate(binary_images):
        z = posterior.loc[i] + posterior.scale[i] * eps[i]
        weights = (
            log_pixels(model, image[None], z)[0]
            + model.prior_distribution().log_prob(z)
            - stats.norm.logpdf(z, posterior.loc[i], posterior.scale[i]).sum(-1)
        )
        expected.append(special.logsumexp(weights) - math.log(num_samples))
    values = model.log_likelihood(binary_images, num_samples=num_samples, seed=100)
    np.testing.assert_allclose(values, expected, rtol=1e-4)


# The weight of the KL


def terms(model, images, training: bool, step: int = 0) -> dict[str, np.ndarray]:
    model.compile()
    model.optimizer.iterations.assign(step)
    seeds = tf.range(len(images), dtype=tf.int64)
    losses = model.losses_per_image(tf.constant(images), None, seeds, training)
    return {name: value.numpy() for name, value in losses.items()}


def test_beta_weights_the_kl(binary_images):
    for beta in (0.0, 0.5, 1.0, 4.0):
        losses = terms(laws.randomised(VAE(latent_dim=2, beta=beta, **BINARY)), binary_images, True)
        assert (losses["kl"] > 0).all()
        expected = losses["reconstruction"] + beta * losses["kl"]
        np.testing.assert_allclose(losses["loss"], expected, rtol=1e-5)


def test_kl_warmup_grows_linearly_in_training_only(binary_images):
    model = laws.randomised(VAE(latent_dim=2, beta=2.0, kl_warmup_steps=8, **BINARY))
    for step, weight in ((0, 0.0), (2, 0.5), (8, 2.0), (800, 2.0)):
        losses = terms(model, binary_images, True, step)
        expected = losses["reconstruction"] + weight * losses["kl"]
        np.testing.assert_allclose(losses["loss"], expected, rtol=1e-5)
        losses = terms(model, binary_images, False, step)
        expected = losses["reconstruction"] + 2.0 * losses["kl"]
        np.testing.assert_allclose(losses["loss"], expected, rtol=1e-5)


def test_beta_leaves_the_likelihood_alone(binary_images):
    a, b = (laws.randomised(VAE(latent_dim=2, beta=beta, **BINARY)) for beta in (1.0, 9.0))
    b.set_weights(a.get_weights())
    np.testing.assert_array_equal(a.log_likelihood(binary_images), b.log_likelihood(binary_images))


# Labels


def test_labels_reach_every_part():
    model = laws.randomised(VAE(latent_dim=2, num_classes=3, **BINARY))
    images = laws.images_for(model, 3)
    laws.labels_matter(model)
    a, b = (model.encode(images, labels=label) for label in (0, 2))
    assert (np.abs(a - b) > 1e-4).all()
    a, b = (model.posterior(images, labels=label).stddev() for label in (0, 2))
    assert (np.abs(a - b) > 1e-6).all()
    a, b = (model.pixel_likelihood(np.zeros((1, 2)), labels=label).mean() for label in (0, 2))
    assert (np.abs(a - b) > 1e-4).any()
    one = model.reconstruct(images, labels=[0, 1, 2])
    other = np.concatenate([model.reconstruct(images[i : i + 1], labels=i) for i in range(3)])
    np.testing.assert_array_equal(one, other)


# Arguments


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("prior", "normal"),
        ("prior_components", 0),
        ("prior_steps", 0),
        ("prior_tail", 1.0),
        ("prior_tail", -0.1),
        ("num_importance_samples", 0),
        ("beta", -0.1),
        ("beta", math.nan),
        ("kl_warmup_steps", -1),
        ("num_classes", 0),
        ("num_classes", 1.5),
    ],
)
def test_bad_arguments(argument, wrong):
    with pytest.raises(ValueError, match=f"{argument} must (be|lie) .*received {wrong!r}"):
        VAE(latent_dim=2, **{**BINARY, argument: wrong})


def test_without_filters_each_network_has_one_hidden_layer():
    binary = {"num_levels": 2, "pixel_distribution": "bernoulli"}
    model = VAE((28, 28, 1), 10, filters=(), dense_units=512, **binary)
    encoder = 784 * 512 + 512 + 2 * (512 * 10 + 10)
    assert model.count_params() == encoder + 10 * 512 + 512 + 512 * 784 + 784
    assert model.sample(2, seed=0).shape == (2, 28, 28, 1)


@pytest.mark.parametrize("family", [GAN, HierarchicalVAE])
def test_other_families_need_filters(family):
    with pytest.raises(ValueError, match="filters must be a list of integers of at least 1"):
        family((8, 8, 1), filters=())


def test_mixing_reaches_every_place():
    """A latent in one corner of the coarsest map moves the pixels of the opposite corner."""
    shape = {"image_shape": (64, 64, 1), "filters": (4, 4), "groups": (0, 2), "dense_units": 8}
    place = {"mixed": (False, True), "local": (False, False)}
    moved = {}
    for name, mixing in place.items():
        keras.utils.set_random_seed(0)
        model = HierarchicalVAE(
            **shape, top_dim=2, group_channels=(1, 1), mixing=mixing, pixel_distribution="gaussian"
        )
        latents = np.zeros((2, model.latent_dim), np.float32)
        latents[1, 2] = 10.0  # the first place of the first map, behind the dense group
        parameters = model.decoder(latents).numpy()
        moved[name] = np.abs(parameters[1, -4:, -4:] - parameters[0, -4:, -4:]).max()
    assert moved["mixed"] > 1e-6
    assert moved["local"] == 0.0


@pytest.mark.parametrize("mixing", [(True,), (True, False, True), True, "no", (1, 0)])
def test_mixing_fits_the_filters(mixing):
    with pytest.raises(ValueError, match="mixing must be None or have one entry for each of"):
        HierarchicalVAE(mixing=mixing)


LADDER = {
    "image_shape": (8, 8, 1),
    "top_dim": 2,
    "filters": (4, 4),
    "groups": (1, 1),
    "group_channels": (1, 2),
    "dense_units": 8,
    "pixel_distribution": "gaussian",
}


@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_ladder_decodes_what_it_scores(num_classes):
    model = laws.randomised(HierarchicalVAE(**LADDER, num_classes=num_classes), 0.15)
    images, seeds = tf.constant(laws.images_for(model, 6)), tf.range(6, dtype=tf.int64)
    labels = None if num_classes is None else seeds % num_classes
    drawn = noise.normal(seeds, (model.latent_dim,))
    walk = model.top_down.infer(model.bottom_up(images), drawn, labels)
    found = model.decoder(with_labels(walk["latents"], labels))
    np.testing.assert_allclose(found, walk["parameters"], rtol=1e-3, atol=1e-4)


def test_a_vae_draws_what_it_scores(binary_images):
    model = laws.randomised(VAE(latent_dim=2, num_classes=3, **BINARY), 0.5)
    seeds = tf.range(6, dtype=tf.int64)
    labels = seeds % 3
    z = model._prior_sample(seeds, 1.0, labels)
    p = tf.sigmoid(model.decoder([z, labels])).numpy()
    np.testing.assert_allclose(model.mean_image(z, labels), 255 * p, rtol=1e-4, atol=1e-3)
    expected = np.log(np.where(binary_images > 0, p, 1 - p)).sum((1, 2, 3))
    found = model._log_pixels(binary_images, z[:, None], labels)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    drawn = model.sample(6, seed=0, labels=labels.numpy())
    np.testing.assert_array_equal(drawn, np.where(p > 0.5, 255, 0))


@pytest.mark.parametrize("num_classes", [None, 2])
def test_coarse_latents_are_chosen_in_proportion(num_classes):
    """With weights exp(selectivity * logit) over the candidates; the finer latents stay."""
    count, candidates = 2000, 3
    model = laws.randomised(
        HierarchicalVAE(**LADDER, candidates=candidates, selectivity=2.0, num_classes=num_classes),
        scale=0.5,
    )
    coarse, fine = model.top_down.coarse_dim, model.top_down.sizes[1]
    seeds = tf.range(count, dtype=tf.int64)
    labels = None if num_classes is None else seeds % num_classes
    drawn = noise.normal(seeds, (candidates * coarse + fine,)).numpy()
    offered = drawn[:, : candidates * coarse].reshape(count, candidates, coarse)
    logits = np.stack(
        [
            model.critic(model.top_down.coarse_state(offered[:, i], labels), labels)
            for i in range(candidates)
        ],
        1,
    )
    latents = model._prior_sample(seeds, 1.0, labels).numpy()
    np.testing.assert_array_equal(latents[:, coarse:], drawn[:, candidates * coarse :])
    chosen = (latents[:, None, :coarse] == offered).all(-1)
    assert (chosen.sum(1) == 1).all()
    weights = special.softmax(2.0 * np.float64(logits), 1)
    assert weights.max(1).mean() > 0.5  # so that it is not a choice among equals
    found, expected = (weights * chosen).sum(), (weights**2).sum()
    error = np.sqrt(((weights**3).sum(1) - (weights**2).sum(1) ** 2).sum())
    assert abs(found - expected) < 5 * error


@pytest.mark.parametrize("num_classes", [None, 3])
def test_critic_sees_the_states_of_images_and_of_the_prior(num_classes):
    """Its loss is that of telling them apart, and moves nothing but the critic.

    A conditional critic also sees the states of images under a class that is not theirs.
    """
    model = laws.randomised(
        HierarchicalVAE(**LADDER, candidates=2, num_classes=num_classes), scale=0.15
    )
    model.compile()
    images, seeds = tf.constant(laws.images_for(model, 60)), tf.range(60, dtype=tf.int64)
    labels = None if num_classes is None else seeds % num_classes
    with tf.GradientTape() as tape:
        losses = model.losses_per_image(images, labels, seeds, True)
    moved = {
        variable.path.split("/")[0] if "/" in variable.path else variable.path
        for variable, gradient in zip(
            model.trainable_variables,
            tape.gradient(losses["critic"], [v.value for v in model.trainable_variables]),
            strict=True,
        )
        if gradient is not None
    }
    assert moved == {"critic"}
    drawn = noise.normal(seeds, (model.latent_dim,))
    walk = model.top_down.infer(model.bottom_up(images), drawn, labels)
    state = model.top_down.coarse_state(walk["latents"][:, : model.top_down.coarse_dim], labels)
    np.testing.assert_allclose(state, walk["coarse_state"], rtol=1e-4, atol=1e-5)
    seen = noise.normal(noise.fold(seeds, 4), (model.top_down.coarse_dim,))
    real = np.float64(model.critic(state, labels))
    fake = np.float64(model.critic(model.top_down.coarse_state(seen, labels), labels))
    expected = np.logaddexp(0, -real) + np.logaddexp(0, fake)
    if num_classes is not None:
        own, one, two = (
            np.logaddexp(0, np.float64(model.critic(state, (labels + further) % 3)))
            for further in range(3)
        )
        added = losses["critic"].numpy() - expected
        errors = np.abs(np.stack([own, one, two]) - added)
        assert (errors[1:].min(0) < 1e-4 * (1 + np.abs(losses["critic"]))).all()
        nearest = np.bincount(errors.argmin(0), minlength=3)
        assert nearest[0] < 10 < min(nearest[1:])  # either of the others, at random
        expected = expected + added
    np.testing.assert_allclose(losses["critic"], expected, rtol=1e-4)
    kl = losses["kl"] + losses["reconstruction"]
    np.testing.assert_allclose(losses["loss"], kl + losses["critic"], rtol=1e-5)


@pytest.mark.parametrize("family", [VAE, HierarchicalVAE])
def test_temperature_scales_the_noise_of_the_prior(family):
    options = LADDER if family is HierarchicalVAE else {"latent_dim": 3, **BINARY}
    model, seeds = family(**options), tf.range(4, dtype=tf.int64)
    half, whole = (model._prior_sample(seeds, temperature, None) for temperature in (0.5, 1.0))
    np.testing.assert_allclose(half, 0.5 * whole, rtol=1e-6)


@pytest.mark.parametrize("prior", [name for name in vae.PRIORS if name != "standard_normal"])
def test_temperature_scales_the_noise_of_a_learned_prior(prior):
    """Before a flow, and around the mean of a component."""
    model = laws.randomised(VAE(latent_dim=3, prior=prior, prior_components=2, **BINARY))
    seeds = tf.range(64, dtype=tf.int64)
    half = np.asarray(model._prior_sample(seeds, 0.5))
    if prior in vae.FLOWS:
        forward = model._learned_prior(None).bijector.forward
        np.testing.assert_allclose(half, forward(0.5 * noise.normal(seeds, (3,))), rtol=1e-4)
    else:
        whole, means = (np.asarray(model._prior_sample(seeds, scale)) for scale in (1.0, 1e-7))
        np.testing.assert_allclose(half - means, 0.5 * (whole - means), rtol=1e-3, atol=1e-5)
        assert np.abs(whole - means).max() > 0.1


@pytest.mark.slow_except("VAE")
@pytest.mark.parametrize("family", [VAE, HierarchicalVAE])
def test_gaussian_pixels_in_float64(family):
    arguments = {"image_shape": (8, 8, 1), "filters": (4,)} if family is VAE else LADDER
    model = family(**arguments | {"pixel_distribution": "gaussian", "dtype": "float64"})
    images = laws.images_for(model, 3)
    model.compile(jit_compile=False)
    model.fit(images, verbose=0)
    assert np.isfinite(model.log_likelihood(images, num_samples=2, seed=0)).all()


def test_activity_losses_are_those_of_the_images_and_not_of_pseudo_inputs():
    """The posterior's network runs on both, and Keras keeps the losses of its last call."""
    model = laws.randomised(VAE(image_shape=(8, 8, 1), prior="vamp", prior_components=3, **SMALL))
    model.posterior_network.get_layer("mean").activity_regularizer = keras.regularizers.L1(1.0)
    images, seeds = tf.constant(laws.images_for(model, 4)), tf.range(4, dtype=tf.int64)
    model.losses_per_image(images, None, seeds, training=True)
    found = [float(loss) for loss in model.losses]
    mean, _ = model.posterior_network(images)
    assert found == pytest.approx([np.abs(mean).sum() / 4], rel=1e-5)


def test_free_bits_hold_up_each_group_in_training_alone():
    model = laws.randomised(HierarchicalVAE(**LADDER), 0.15)
    images, seeds = tf.constant(laws.images_for(model, 6)), tf.range(6, dtype=tf.int64)
    drawn = noise.normal(seeds, (model.latent_dim,))
    kl = np.stack(model.top_down.infer(model.bottom_up(images), drawn)["kl"], 1)
    model.free_bits = float(np.median(kl))
    for training, counted in ((True, np.maximum(kl, model.free_bits)), (False, kl)):
        losses = model.losses_per_image(images, None, seeds, training)
        total = losses["reconstruction"] + counted.sum(1)
        np.testing.assert_allclose(losses["loss"], total, rtol=1e-4)
        np.testing.assert_allclose(losses["kl"], kl.sum(1), rtol=1e-4)


def test_dropout_keeps_the_mean_and_reaches_every_block():
    model = laws.randomised(HierarchicalVAE(**LADDER, num_blocks=2, dropout=0.25), 0.15)
    masks = model._masks(tf.range(2000, dtype=tf.int64)).numpy()
    np.testing.assert_allclose(np.unique(masks), [0.0, 1 / 0.75], rtol=1e-6)
    assert masks.mean() == pytest.approx(1.0, abs=0.02)
    images, seeds = tf.constant(laws.images_for(model, 3)), tf.range(3, dtype=tf.int64)
    drawn = noise.normal(seeds, (model.latent_dim,))

    def parameters(masks):
        features = model.bottom_up(images, masks)
        return model.top_down.infer(features, drawn, None, masks)["parameters"].numpy()

    kept = np.ones_like(masks[:3])
    whole = parameters(kept)
    np.testing.assert_array_equal(whole, parameters(None))
    for block in range(masks.shape[1]):
        dropped = kept.copy()
        dropped[:, block] = 0.0
        assert (parameters(dropped) != whole).any(), block


def test_a_bound_has_other_noise_than_the_samples(monkeypatch, binary_images):
    """Or a sample would be judged at the very latents that it was drawn from."""
    model, seen, normal = VAE(latent_dim=2, **BINARY), [], noise.normal

    def kept(*args, **options):
        seen.append(normal(*args, **options))
        return seen[-1]

    monkeypatch.setattr(noise, "normal", kept)
    default = inspect.signature(model.log_likelihood).parameters["seed"].default
    model._prior_sample(model.image_seeds(6, 0), 1.0)
    model._bound(tf.constant(binary_images), None, model.image_seeds(6, default), 1)
    drawn, judging = (np.reshape(eps, (6, -1))[:, :2] for eps in seen)
    assert not np.isclose(drawn, judging).any()
    seen.clear()
    model._prior_sample(model.image_seeds(6, 0), 1.0)
    model._bound(tf.constant(binary_images), None, model.image_seeds(6, 0), 1)
    drawn, judging = (np.reshape(eps, (6, -1))[:, :2] for eps in seen)
    np.testing.assert_array_equal(drawn, judging)  # so the test above can fail
