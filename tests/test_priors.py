"""The learned priors: densities that sum to one, inverses, flow matching, tails, stages."""

import itertools
import math

import keras
import laws
import numpy as np
import pytest
import runs
import tensorflow as tf
from scipy import stats

from tfgen import VAE, HierarchicalVAE, Recipe, noise, training, tuning
from tfgen.models import continuous, priors, vae

BINARY = {
    "image_shape": (4, 4, 1),
    "pixel_distribution": "bernoulli",
    "num_levels": 2,
    "filters": (4,),
    "dense_units": 8,
    "num_blocks": 0,
}
LADDER = {
    **BINARY,
    "top_dim": 3,
    "groups": (1,),
    "group_channels": (1,),
    "prior": "flow",
    "prior_components": 2,
    "prior_units": 5,
}
# What a stage of a recipe names to train the prior alone; docs/training.md tells.
PARTS = {"flow": "coupling_*", "continuous_flow": "velocity", "vamp": "pseudo_inputs"}


def grid(half_width: float, steps: int) -> tuple[np.ndarray, float]:
    axis = np.linspace(-half_width, half_width, steps, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return points, float(axis[1] - axis[0]) ** 2


def log_normal(z: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """log N(z; 0, scale^2 I) of vectors in the last axis."""
    return stats.norm.logpdf(np.asarray(z, np.float64), scale=scale).sum(-1)


# Densities


@pytest.mark.parametrize(
    ("prior", "tail"),
    [
        *((prior, 0.0) for prior in vae.PRIORS),
        *(pytest.param(prior, 0.2, marks=pytest.mark.slow) for prior in vae.FLOWS),
    ],
)
def test_prior_is_a_density_and_sampled_as_such(prior, tail):
    model = VAE(latent_dim=2, prior=prior, prior_components=3, prior_tail=tail, **BINARY)
    laws.randomised(model, 0.15)
    points, cell = grid(14, 281)
    density = np.exp(model.prior_distribution().log_prob(points).numpy().astype(float))
    assert density.sum() * cell == pytest.approx(1, abs=2e-3)
    # Samples of the model have the moments of the density.
    drawn = model._prior_sample(tf.range(20_000, dtype=tf.int64), 1.0).numpy().astype(float)
    assert drawn.shape == (20_000, 2)
    for function in (
        lambda z: z[:, 0],
        lambda z: z[:, 1],
        lambda z: z[:, 0] * z[:, 1],
        lambda z: z[:, 0] ** 2,
        lambda z: np.cos(2 * z).sum(1),
    ):
        values = function(drawn)
        exact = (function(points) * density).sum() * cell
        assert abs(values.mean() - exact) < 5 * values.std() / math.sqrt(len(values)) + 0.01


@pytest.mark.parametrize("prior", ["flow", pytest.param("continuous_flow", marks=pytest.mark.slow)])
def test_conditional_flow_is_a_density_of_each_class(prior):
    model = VAE(latent_dim=2, prior=prior, prior_components=3, num_classes=3, **BINARY)
    laws.randomised(model, 0.3)
    points, cell = grid(14, 281)
    means = []
    for label in range(3):
        density = model.prior_distribution(np.array([label]))
        density = np.exp(density.log_prob(points[None])[0].numpy().astype(float))
        assert density.sum() * cell == pytest.approx(1, abs=2e-3)
        means.append((points * density[:, None]).sum(0) * cell)
        labels = np.full(20_000, label)
        drawn = model._prior_sample(tf.range(20_000, dtype=tf.int64), 1.0, tf.constant(labels))
        np.testing.assert_allclose(np.mean(drawn, 0), means[-1], atol=0.03)
    assert np.abs(means[0] - means[1]).max() > 0.05
    with pytest.raises(ValueError, match="labels are required"):
        model.prior_distribution()
    for wrong in (3, -1, [0, 3], 0.5):
        with pytest.raises(ValueError, match="labels must"):
            model.prior_distribution(wrong)
    one, same = (model.prior_distribution(of).log_prob(points[None]) for of in (2, [2]))
    np.testing.assert_array_equal(one, same)
    several = model.prior_distribution([0, 1, 2])
    rows = np.stack([points[:7]] * 3)
    for label, own in enumerate(several.log_prob(rows)):
        same = model.prior_distribution(label).log_prob(rows[:1])[0]
        np.testing.assert_allclose(own, same, rtol=1e-4, atol=1e-5)
    calls = (
        several.sample,
        lambda: several.sample(4),
        lambda: several.log_prob(points[None, :300]),
    )
    for call in calls:
        with pytest.raises(ValueError, match="first axis of 3, one entry for each label"):
            call()


@pytest.mark.parametrize("num_classes", [None, 2])
def test_a_tail_bounds_a_far_latent_in_16_bits(num_classes):
    arguments = {"latent_dim": 4, "prior": "flow", "prior_tail": 0.01, "dtype": "mixed_float16"}
    model = laws.randomised(VAE(**arguments, num_classes=num_classes, **BINARY))
    z = np.full((1, 4), 1e5, np.float32)
    found = model.prior_distribution(None if num_classes is None else [1]).log_prob(z)
    assert found >= math.log(0.01) + 1.001 * log_normal(z, priors.TAIL_SCALE)


@pytest.mark.parametrize("prior", vae.FLOWS)
def test_a_conditional_flow_takes_no_rows(prior):
    """As a replica gets them that has no images."""
    model = VAE(latent_dim=2, prior=prior, prior_components=3, num_classes=3, **BINARY)
    none = tf.zeros((0,), tf.int64)
    losses = model.losses_per_image(tf.zeros((0, 4, 4, 1), tf.uint8), none, none, False)
    assert {value.shape[0] for value in losses.values()} == {0}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_pseudo_inputs_stand_for_whole_grey_values(jit_compile):
    """Black ones too; and the gradient is that without the rounding."""
    x = tf.constant(np.linspace(-20, 20, 4001, dtype=np.float32))

    @tf.function(jit_compile=jit_compile)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            greys = priors.greys_of(x)
        return greys, tape.gradient(greys, x)

    greys, slope = both(x)
    np.testing.assert_array_equal(greys, np.round(greys))
    assert (np.min(greys), np.max(greys)) == (0, 255)
    unit = tf.sigmoid(x)
    np.testing.assert_allclose(slope, 255 * unit * (1 - unit), rtol=1e-3, atol=1e-4)


def test_vamp_components_are_posteriors():
    model = laws.randomised(VAE(latent_dim=2, prior="vamp", prior_components=3, **BINARY))
    greys = np.round(255 / (1 + np.exp(-model.pseudo_inputs.numpy())))
    expected = model._posterior(tf.constant(greys.astype(np.uint8)), None)
    components = model.prior_distribution().components_distribution
    np.testing.assert_allclose(components.mean(), expected.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(components.stddev(), expected.stddev(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow_except("2-True")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("classes", [None, 2])
def test_vamp_draws_from_the_same_posteriors_in_any_batch(classes, jit_compile):
    """Batches smaller than the pseudo-inputs encode only those that they draw from."""
    model = laws.randomised(
        VAE(latent_dim=2, prior="vamp", prior_components=7, num_classes=classes, **BINARY)
    )
    seeds = tf.range(30, dtype=tf.int64)
    draw = tf.function(lambda seeds: model._prior_sample(seeds, 1.0), jit_compile=jit_compile)
    together = draw(seeds).numpy()
    normal = model.prior_distribution().components_distribution.distribution
    index = (noise.uniform(seeds, (), stream=1).numpy() * 7).astype(int)
    expected = normal.loc.numpy()[index] + normal.scale.numpy()[index] * noise.normal(seeds, (2,))
    assert len(np.unique(index)) == 7
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)
    for size in 1, 6, 7, 8:
        parts = [draw(seeds[i : i + size]) for i in range(0, 30 - 30 % size, size)]
        parts = np.concatenate(parts)
        np.testing.assert_allclose(parts, together[: len(parts)], rtol=1e-4, atol=1e-5)


def test_vamp_at_temperature_zero_is_the_densest_centre():
    model = laws.randomised(VAE(latent_dim=2, prior="vamp", prior_components=7, **BINARY))
    prior = model.prior_distribution()
    centres = prior.components_distribution.mean()
    expected = centres.numpy()[np.argmax(prior.log_prob(centres))]
    z = model._prior_sample(tf.range(3, dtype=tf.int64), 0.0)
    np.testing.assert_allclose(z, np.tile(expected, (3, 1)), rtol=1e-5)


# The flow of couplings


def test_flow_is_inverted():
    model = VAE(latent_dim=5, prior="flow", prior_components=4, **BINARY)
    eps = noise.normal(tf.range(50, dtype=tf.int64), (5,))
    np.testing.assert_allclose(model._prior_sample(tf.range(50, dtype=tf.int64), 1.0), eps)
    laws.randomised(model, 0.2)
    bijector = model.prior_distribution().bijector
    z = bijector.forward(eps).numpy()
    assert np.abs(z - eps.numpy()).max() > 0.1
    # Arrays instead of tensors, so that TFP's cache cannot just remember where z came from.
    np.testing.assert_allclose(bijector.inverse(tf.constant(z)), eps, atol=1e-4)
    there = bijector.forward_log_det_jacobian(tf.constant(eps.numpy()), event_ndims=1)
    back = bijector.inverse_log_det_jacobian(tf.constant(z), event_ndims=1)
    np.testing.assert_allclose(there, -back, atol=1e-4)
    with tf.GradientTape() as tape:
        inputs = tf.Variable(eps)
        tape.watch(inputs)
        outputs = bijector.forward(inputs + 0.0)
    _, exact = np.linalg.slogdet(tape.batch_jacobian(outputs, inputs))
    np.testing.assert_allclose(there, exact, atol=1e-3)


def test_a_flow_needs_two_latents():
    with pytest.raises(ValueError, match="latent_dim must be an integer of at least 2; received 1"):
        VAE(latent_dim=1, prior="flow", **BINARY)


# The continuous flow


@pytest.fixture(scope="module")
def bent():
    """A continuous flow far from the identity, and latents (50, 3) of it."""
    keras.utils.set_random_seed(0)
    velocity = laws.randomised(continuous.Velocity(3, 8), 0.4)
    u = noise.normal(tf.range(50, dtype=tf.int64), (3,))
    z = continuous.forward(velocity, 60, u)
    assert np.abs(z - u).max() > 0.5
    return velocity, u, z


def test_a_continuous_flow_starts_as_the_identity():
    u = noise.normal(tf.range(50, dtype=tf.int64), (3,))
    velocity = continuous.Velocity(3, 8)
    np.testing.assert_array_equal(continuous.forward(velocity, 3, u), u)
    back, log_det = continuous.inverse(velocity, 3, u)
    np.testing.assert_array_equal(back, u)
    np.testing.assert_array_equal(log_det, np.zeros(50))


def test_gates_are_open_where_nothing_modulates():
    """Gates are 1 plus what the time and the class add, so training begins with all units."""
    velocity = laws.randomised(continuous.Velocity(3, 8), 0.4)
    velocity.modulation.set_weights([np.zeros_like(w) for w in velocity.modulation.get_weights()])
    z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    hidden = z
    for layer in (velocity.dense_0, velocity.dense_1):
        hidden = hidden @ layer.kernel.numpy()
        hidden = hidden / (1.0 + np.exp(-hidden))  # silu
    found, _ = velocity(z, tf.constant([[0.3]]))
    np.testing.assert_allclose(found, velocity.last(hidden), rtol=1e-5, atol=1e-6)


def test_divergence_is_the_trace_of_the_jacobian():
    velocity = laws.randomised(continuous.Velocity(5, 7, num_classes=3), 0.4)
    labels = tf.constant([0, 1, 2, 2], tf.int64)
    z = tf.constant(np.random.default_rng(0).standard_normal((4, 5)), tf.float32)
    t = tf.constant([[0.0], [0.3], [0.8], [1.0]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        v, divergence = velocity(z, t, labels)
    trace = tf.linalg.trace(tape.batch_jacobian(v, z))
    assert np.abs(trace).min() > 1e-3
    np.testing.assert_allclose(divergence, trace, rtol=1e-4, atol=1e-5)


def test_the_error_falls_with_the_square_of_the_steps(bent):
    """The noise comes back, and log det is that of the exact flow, to the solver's tolerance."""
    velocity, u, z = bent
    _, exact = continuous.inverse(velocity, 60, z)
    errors = []
    for steps in (8, 16, 32):
        back, log_det = continuous.inverse(velocity, steps, z)
        errors.append((np.abs(back - u).max(), np.abs(log_det - exact).max()))
    for coarse, fine in itertools.pairwise(errors):
        for index in range(2):
            assert fine[index] < coarse[index] / 2.5 or fine[index] < 1e-5
    assert max(errors[-1]) < 1e-2


def test_log_density_is_the_change_of_variables(bent):
    """Of the inverse map, whose Jacobian comes from finite differences."""
    velocity, _, z = bent
    step, steps = 0.01, 40
    shifts = step * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    moved = tf.reshape(z + shifts[:, None].astype(np.float32), (-1, 3))
    u = continuous.inverse(velocity, steps, moved)[0].numpy().reshape(7, -1, 3)
    jacobian = np.stack((u[1:4] - u[4:]) / (2 * step), -1)
    _, log_det = np.linalg.slogdet(jacobian)
    flow = priors.continuous_flow(priors.standard_normal(3), velocity, steps)
    np.testing.assert_allclose(flow.log_prob(z), log_normal(u[0]) + log_det, atol=1e-2)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_walks_in_a_loop_as_eager_code_does_step_by_step(bent, jit_compile, monkeypatch):
    velocity, u, _ = bent
    walks = (continuous.forward, continuous.inverse)
    stepwise = [walk(velocity, 6, u) for walk in walks]
    traced, call = [], continuous.Velocity.call
    monkeypatch.setattr(
        continuous.Velocity, "call", lambda *given: traced.append(given) or call(*given)
    )
    looped = tf.function(
        lambda x: [walk(velocity, 6, x) for walk in walks], jit_compile=jit_compile
    )
    for found, expected in zip(*map(tf.nest.flatten, (looped(u), stepwise)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len(traced) <= 2 * 4  # two for each walk, however many steps; TensorFlow may try twice


def test_one_walk_back_gives_noise_and_density(bent, monkeypatch):
    velocity, _, z = bent
    whole, calls = continuous.inverse, []

    def counted(*args):
        calls.append(args)
        return whole(*args)

    monkeypatch.setattr(continuous, "inverse", counted)
    priors.continuous_flow(priors.standard_normal(3), velocity, 4).log_prob(z)
    assert len(calls) == 1


def test_flow_matching_finds_a_known_mixture():
    """Nearer to it than N(0, I), in nats of samples of the mixture."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    centres, scale = np.array([[2.0, 0.0], [-2.0, 0.5], [0.0, -2.0]]), 0.4

    def drawn(count):
        z = centres[rng.integers(3, size=count)] + scale * rng.standard_normal((count, 2))
        return z.astype(np.float32)

    velocity = continuous.Velocity(2, 48)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 300))

    @tf.function
    def train(z, seeds):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(continuous.matching_loss(velocity, z[:, None], seeds))
        weights = velocity.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)

    for step in range(300):
        train(drawn(256), tf.range(256 * step, 256 * (step + 1), dtype=tf.int64))
    z = drawn(1000)
    near = log_normal(z[:, None] - centres, scale)
    truth = np.log(np.exp(near).mean(1))
    flow = priors.continuous_flow(priors.standard_normal(2), velocity, 16)
    off = (truth - flow.log_prob(z).numpy()).mean()
    assert -0.05 < off < 0.25 * (truth - log_normal(z)).mean()


def test_joint_training_leaves_the_encoder_to_the_normal_prior():
    """The flow's loss moves the flow alone, and the flow feels nothing else."""
    images = laws.images_for(VAE(latent_dim=2, **BINARY), 4)
    gradients = {}
    for prior in ("standard_normal", "continuous_flow"):
        keras.utils.set_random_seed(0)
        model = VAE(latent_dim=2, prior=prior, **BINARY)
        seeds = tf.range(4, dtype=tf.int64)
        with tf.GradientTape() as tape:
            losses = model.losses_per_image(tf.constant(images), None, seeds, training=True)
        held = {n: v for n, v in tuning.weights(model).items() if not n.startswith("velocity")}
        gradients[prior] = tape.gradient(losses["loss"], [v.value for v in held.values()])
    for a, b in zip(*gradients.values(), strict=True):
        np.testing.assert_array_equal(a, b)


# Tails


@pytest.mark.parametrize("prior", PARTS)
def test_a_tail_bounds_what_a_far_latent_costs(prior):
    arguments = {"latent_dim": 3, "prior": prior, "prior_components": 3, **BINARY}
    plain = laws.randomised(VAE(**arguments), 0.3)
    tailed = VAE(prior_tail=0.01, **arguments)
    tailed.set_weights(plain.get_weights())
    z = np.concatenate([np.random.default_rng(0).standard_normal((20, 3)), [[50.0, -50.0, 50.0]]])
    z = z.astype(np.float32)
    alone = plain.prior_distribution().log_prob(z).numpy().astype(float)
    wide = math.log(0.01) + log_normal(z, priors.TAIL_SCALE)
    expected = np.logaddexp(math.log(0.99) + alone, wide)
    np.testing.assert_allclose(tailed.prior_distribution().log_prob(z), expected, rtol=1e-4)
    # About the share of the samples is the wide normal's.
    seeds = tf.range(5000, dtype=tf.int64)
    own, moved = (model._prior_sample(seeds, 1.0).numpy() for model in (plain, tailed))
    share = (own != moved).any(1).mean()
    assert abs(share - 0.01) < 0.006
    np.testing.assert_array_equal(tailed._prior_sample(seeds, 0.0), plain._prior_sample(seeds, 0.0))


@pytest.mark.slow_except("flow")
@pytest.mark.parametrize("prior", vae.FLOWS)
def test_the_tail_of_a_ladder(prior, monkeypatch):
    """The density of z_0 is the mixture's, and what is picked decodes from the wide normal."""
    ladder = LADDER | {"prior": prior, "prior_steps": 48}
    plain = laws.randomised(HierarchicalVAE(**ladder), 0.3)
    tailed = HierarchicalVAE(prior_tail=0.2, **ladder)
    tailed.set_weights(plain.get_weights())
    images = tf.constant(laws.images_for(plain, 6))
    drawn = noise.normal(tf.range(6, dtype=tf.int64), (plain.latent_dim,))
    one, other = (m.top_down.infer(m.bottom_up(images), drawn) for m in (plain, tailed))
    np.testing.assert_array_equal(one["latents"], other["latents"])
    ways = {"flow": priors, "continuous_flow": continuous}[prior]
    networks = (plain.top_down.couplings,)
    if prior == "continuous_flow":
        networks = plain.top_down.velocity, 48
    eps, z = one["latents"][:, :3], one["top"]
    np.testing.assert_allclose(ways.forward(*networks, eps), z, atol=1e-3)
    _, log_det = ways.inverse(*networks, z)
    log_flow = log_normal(eps) + log_det.numpy()
    log_q = log_flow - one["log_ratio"][0].numpy()
    wide = math.log(0.2) + log_normal(z, priors.TAIL_SCALE)
    expected = np.logaddexp(math.log(0.8) + log_flow, wide) - log_q
    np.testing.assert_allclose(other["log_ratio"][0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other["kl"][0], -other["log_ratio"][0])
    picked = np.array([[True], [False]] * 3)
    moved = tailed.top_down.in_tail(drawn, tf.constant(picked))
    z = np.where(picked, priors.TAIL_SCALE * drawn[:, :3], ways.forward(*networks, drawn[:, :3]))
    np.testing.assert_allclose(ways.forward(*networks, moved[:, :3]), z, atol=1e-2)
    np.testing.assert_array_equal(moved[:, 3:], drawn[:, 3:])
    # The share of the samples is moved there, and drawn from there.
    plain_images, images = (model.sample(40, seed=0) for model in (plain, tailed))
    changed = (plain_images != images).any((1, 2, 3))
    assert changed.any()
    assert not changed.all()
    asked = []
    monkeypatch.setattr(
        type(tailed.top_down),
        "in_tail",
        lambda _, latents, picked, labels=None: asked.append(picked) or latents,
    )
    tailed.endpoints()["sample"][0](tf.range(2000, dtype=tf.int64))
    assert abs(np.mean(asked) - 0.2) < 0.04


@pytest.mark.parametrize("training", [True, False])
def test_a_ladder_learns_its_continuous_flow_by_matching(training):
    """Training holds z_0 against N(0, I) and matches the flow to it; testing uses the flow."""
    ladder = LADDER | {"prior": "continuous_flow"}
    model = laws.randomised(HierarchicalVAE(**ladder), 0.3)
    images, seeds = tf.constant(laws.images_for(model, 6)), tf.range(6, dtype=tf.int64)
    losses = model.losses_per_image(images, None, seeds, training)
    drawn = noise.normal(seeds, (model.latent_dim,))
    walk = model.top_down.infer(model.bottom_up(images), drawn, plain=training)
    expected = losses["reconstruction"] + losses["kl"]
    np.testing.assert_allclose(losses["kl"], sum(walk["kl"]), rtol=1e-4)
    if training:
        z = walk["top"]
        expected += continuous.matching_loss(model.top_down.velocity, z[:, None], seeds)
        m, s = tf.split(model.top_down.top_posterior(model.bottom_up(images)[-1]), 2, 1)
        s = np.logaddexp(0, s + math.log(math.e - 1.0)) + 1e-4
        np.testing.assert_allclose(
            walk["kl"][0], (0.5 * (m**2 + s**2 - 1.0) - np.log(s)).numpy().sum(1), rtol=1e-4
        )
    np.testing.assert_allclose(losses["loss"], expected, rtol=1e-4)


# A stage that trains the prior alone


@pytest.mark.parametrize("prior", PARTS)
def test_a_stage_can_name_the_prior(prior):
    held = tuning.weights(VAE(latent_dim=2, prior=prior, **BINARY))
    parts = tuning.matching(held, [PARTS[prior]])
    assert {name.split("/")[0] for name in parts}.isdisjoint({"encoder", "posterior", "decoder"})
    if prior in vae.FLOWS:
        held = tuning.weights(HierarchicalVAE(**LADDER | {"prior": prior}))
        assert tuning.matching(held, [f"top_down/{PARTS[prior]}"])


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [None, 10])
@pytest.mark.parametrize("prior", vae.FLOWS)
def test_a_second_stage_lowers_the_loss(prior, num_classes, tmp_path):
    recipe = Recipe(
        family="VAE",
        model={
            **runs.TINY,
            "dense_units": 16,
            "prior": prior,
            "prior_units": 16,
            "prior_steps": 4,
            "pixel_distribution": "gaussian",
            "num_classes": num_classes,
        },
        data="digits",
        batch_size=128,
        epochs=2,
        learning_rate=0.01,
        warmup_steps=2,
        ema_momentum=0.9,
        jit_compile=False,
        stages=[{"trainable": [PARTS[prior]], "epochs": 6}],
    )
    model = training.train(recipe, tmp_path / "run", verbose=0, keep_epochs=1)
    first, second = (runs.weights_of(recipe, tmp_path / "run", epoch) for epoch in (1, 2))
    names = tuning.matching(tuning.weights(model), [PARTS[prior]])
    for name, value in tuning.values(model).items():
        kept = (value == first[name]).all() or (value == second[name]).all()
        assert kept == (name not in names), name
    losses = [float(row["val_loss"]) for row in runs.log_of(tmp_path / "run")]
    assert min(losses[2:]) < min(losses[:2])
    images, labels = laws.images_for(model, 50), laws.labels_for(model, 50)
    assert np.isfinite(model.log_likelihood(images, **laws.given(model, labels))).all()
