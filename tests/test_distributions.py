"""Pixel distributions: sums to one, agree with naive formulas, stay finite at the extremes."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfgen import VAE, distributions, portable
from tfgen.distributions import levels as formulas
from tfgen.distributions import tfp

SHAPE = (2, 3, 2)  # height, width, channels
NAMES = {
    "bernoulli": 2,
    "categorical": 5,
    "discretized_logistic_mixture": 17,
    "gaussian": 256,
}


def parameters_of(name: str, num_levels: int, batch: int = 4, scale: float = 1.5, seed: int = 0):
    """Random parameters as a decoder would give them, and the log scale of a Gaussian."""
    outputs = SHAPE[-1] * distributions.outputs_per_channel(name, num_levels, num_mixtures=3)
    rng = np.random.default_rng(seed)
    if name == "gaussian":
        scale = 0.2  # centres well inside the range, so that no mass is lost outside
    parameters = scale * rng.standard_normal((batch, *SHAPE[:2], outputs))
    log_scale = tf.constant(np.log(0.06), tf.float32) if name == "gaussian" else None
    return tf.constant(parameters, tf.float32), log_scale


def build(name: str, num_levels: int, **arguments):
    """A distribution at such parameters."""
    parameters, log_scale = parameters_of(name, num_levels, **arguments)
    return tfp.pixel_distribution(name, parameters, num_levels, SHAPE[-1], log_scale)


def table(distribution, num_levels: int) -> np.ndarray:
    """log P of each level of each pixel, float64 (levels, batch, height, width, channels)."""
    single = distribution.distribution
    levels = tf.reshape(tf.range(num_levels, dtype=tf.float32), (-1, 1, 1, 1, 1))
    return single.log_prob(levels + tf.zeros((1, *single.batch_shape))).numpy().astype(np.float64)


@pytest.mark.parametrize(("name", "num_levels"), NAMES.items())
def test_probabilities_sum_to_one(name, num_levels):
    """The Gaussian is a density, summed by the midpoint rule over bins that are narrow for it."""
    total = np.exp(table(build(name, num_levels), num_levels)).sum(0)
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


@pytest.mark.parametrize(("name", "num_levels"), NAMES.items())
def test_log_prob_is_the_sum_over_pixels(name, num_levels):
    distribution = build(name, num_levels)
    assert distribution.event_shape == SHAPE
    levels = np.random.default_rng(1).integers(0, num_levels, (4, *SHAPE))
    values = distribution.log_prob(levels.astype(np.float32))
    assert values.dtype == tf.float32
    each = np.take_along_axis(table(distribution, num_levels), levels[None], 0)[0]
    np.testing.assert_allclose(values, each.sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(("name", "num_levels"), NAMES.items())
def test_mean(name, num_levels):
    """Within half a level of the exact sum, in grey values; exact but for the logistics."""
    probabilities = np.exp(table(build(name, num_levels), num_levels))
    levels = np.arange(num_levels).reshape(-1, 1, 1, 1, 1)
    exact = (probabilities * levels).sum(0) * 255 / (num_levels - 1)
    parameters, _ = parameters_of(name, num_levels)
    mean = distributions.mean_images(name, parameters, num_levels, SHAPE[-1])
    assert mean.dtype == tf.float32
    slack = 0.5 if name == "discretized_logistic_mixture" else 0.01
    assert np.abs(mean - exact).max() < slack * 255 / (num_levels - 1)


@pytest.mark.parametrize(("name", "num_levels"), NAMES.items())
def test_samples_follow_log_prob(name, num_levels):
    distribution = build(name, num_levels, batch=1)
    drawn = distribution.sample(4000, seed=(1, 2)).numpy()  # (draws, 1, height, width, channels)
    assert drawn.shape == (4000, 1, *SHAPE)
    probabilities = np.exp(table(distribution, num_levels))
    if name == "gaussian":
        drawn = np.round(drawn)
    else:
        assert np.isin(drawn, np.arange(num_levels)).all()
    for pixel in np.ndindex(1, *SHAPE):
        expected = 4000 * probabilities[(slice(None), *pixel)]
        expected *= 4000 / expected.sum()
        counts = np.bincount(drawn[(slice(None), *pixel)].astype(int), minlength=num_levels)
        rare = expected < 5
        if rare.any():  # the chi-squared test wants 5 of each: rare levels share a class
            expected = np.append(expected[~rare], expected[rare].sum())
            counts = np.append(counts[~rare], counts[rare].sum())
        if expected[-1] == 0:
            expected, counts = expected[:-1], counts[:-1]
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_no_component_is_flat():
    """Whatever a network says, so that one odd pixel does not turn all that follow into noise."""
    wild = np.full((1, 1, 1, 6), 1e3, np.float32)  # two components
    _, _, scale = distributions.mixture_parameters(tf.constant(wild), 256, 1)
    assert scale.numpy().max() < 0.12 * 256
    centred = np.float32([[0.0, 1.0, 1e3, 0.0, -1.0, 1e3]])  # both at the middle of the range
    ends = [
        distributions.log_prob("discretized_logistic_mixture", centred, np.float32([[end]]), 256)
        for end in (0, 255)
    ]
    assert np.exp(ends).sum() < 0.05


@pytest.mark.parametrize(("name", "num_levels"), NAMES.items())
@pytest.mark.parametrize("scale", [0.2, 1.5, 6.0])
def test_formulas_equal_tensorflow_probability(name, num_levels, scale):
    """Log probabilities and means of the plain formulas, at calm and at wild parameters."""
    parameters, log_scale = parameters_of(name, num_levels, scale=scale)
    whole = tfp.pixel_distribution(name, parameters, num_levels, SHAPE[-1], log_scale)
    levels = np.random.default_rng(1).integers(0, num_levels, (4, *SHAPE)).astype(np.float32)
    plain = distributions.log_prob(name, parameters, levels, num_levels, log_scale)
    assert plain.dtype == tf.float32
    np.testing.assert_allclose(plain, whole.distribution.log_prob(levels), rtol=1e-5, atol=1e-6)
    if name == "categorical":
        probabilities = whole.distribution.probs_parameter()
        mean = tf.reduce_sum(probabilities * np.arange(num_levels, dtype=np.float32), -1)
    else:
        mean = tf.clip_by_value(whole.distribution.mean(), 0.0, num_levels - 1.0)
    greys = distributions.mean_images(name, parameters, num_levels, SHAPE[-1])
    np.testing.assert_allclose(greys, mean * 255 / (num_levels - 1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "num_levels"), NAMES.items())
def test_formulas_need_no_tensor_of_shapes(name, num_levels):
    """With the batch unknown: other runtimes have no operation for what TFP does with shapes."""
    parameters, log_scale = parameters_of(name, num_levels)

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *parameters.shape[1:])),
            tf.TensorSpec((None, *SHAPE)),
        ],
        autograph=False,
    )
    def both(parameters, levels):
        log_probs = distributions.log_prob(name, parameters, levels, num_levels, log_scale)
        return log_probs, distributions.mean_images(name, parameters, num_levels, SHAPE[-1])

    graph = both.get_concrete_function()
    for output in graph.outputs:
        assert output.shape.as_list() == [None, *SHAPE]
    names = {operation.type for operation in graph.graph.get_operations()}
    assert not names & {"Assert", "BroadcastArgs", "Where"}, names


def test_float64_stays():
    for name, num_levels in NAMES.items():
        parameters, log_scale = parameters_of(name, num_levels)
        log_scale = None if log_scale is None else tf.cast(log_scale, tf.float64)
        double = tf.cast(parameters, tf.float64)
        levels = tf.ones((4, *SHAPE))
        values = distributions.log_prob(name, double, levels, num_levels, log_scale)
        assert values.dtype == tf.float64
        of_numpy = distributions.log_prob(name, double.numpy(), levels, num_levels, log_scale)
        np.testing.assert_array_equal(of_numpy, values)
        assert distributions.mean_images(name, double, num_levels, SHAPE[-1]).dtype == tf.float32


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gaussian"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_log_prob(name, temperature):
    """The inverse of the distribution function, at uniform numbers; sharper when it is colder."""
    num_levels, count = NAMES[name], 20_000
    outputs = distributions.outputs_per_channel(name, num_levels, num_mixtures=2)
    row = np.float32([[0.4, 0.3, 0.4, -0.5, -0.6, -0.3][:outputs]])
    if name == "discretized_logistic_mixture":
        # Of each component (logit, place, log scale): temperature scales the noise of the place.
        cold = row * np.float32([[1 / temperature, 1, 1] * 2])
        cold += np.float32([[0, 0, np.log(temperature)] * 2])
    else:
        cold = row / temperature
    levels = np.arange(num_levels, dtype=np.float32)[:, None]
    table = tf.constant(np.repeat(cold, num_levels, 0))
    probabilities = np.exp(distributions.log_prob(name, table, levels, num_levels))[:, 0]
    rng = np.random.default_rng(0)
    uniforms = rng.uniform(size=(count, distributions.num_uniforms(name))).astype(np.float32)
    parameters = tf.constant(np.repeat(row, count, 0))
    drawn = distributions.draw(name, parameters, uniforms, num_levels, temperature).numpy()
    counts = np.bincount(drawn.astype(int), minlength=num_levels)
    np.testing.assert_allclose(counts / count, probabilities, atol=0.015)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gaussian"])
def test_draws_without_noise_take_the_likeliest(name):
    num_levels = NAMES[name]
    outputs = distributions.outputs_per_channel(name, num_levels, num_mixtures=2)
    drawn = np.random.default_rng(0).normal(size=(50, outputs))
    parameters = tf.constant(drawn, tf.float32)
    uniforms = np.full((50, distributions.num_uniforms(name)), 0.999, np.float32)
    drawn = distributions.draw(name, parameters, uniforms, num_levels, 0.0).numpy()
    if name == "discretized_logistic_mixture":  # the centre of the likeliest component
        logits, loc, _ = distributions.mixture_parameters(parameters, num_levels, 1)
        which = np.argmax(logits.numpy()[:, 0], 1)
        loc = np.take_along_axis(loc[:, 0].numpy(), which[:, None], 1)[:, 0]
        expected = np.clip(np.round(loc), 0, num_levels - 1)
    else:
        levels = np.broadcast_to(np.arange(num_levels, dtype=np.float32), (50, num_levels))
        repeated = tf.repeat(parameters[:, None], num_levels, 1)
        values = distributions.log_prob(name, repeated, levels[..., None], num_levels)[..., 0]
        expected = np.argmax(values, 1)
    np.testing.assert_array_equal(drawn, expected)


def test_an_outcome_without_probability_is_never_drawn():
    """Not even by the largest uniform number there is."""
    logits = np.float32([[0.0, 1.0, -np.inf], [-np.inf, 0.0, -np.inf]])
    top = np.float32([1 - 2.0**-24] * 2)
    assert distributions.draw_categorical(logits, top, 1.0).numpy().tolist() == [1, 1]
    low = np.float32([2.0**-24] * 2)
    assert distributions.draw_categorical(logits, low, 1.0).numpy().tolist() == [0, 1]


def test_channels_have_their_own_parameters():
    """Output i * n + j belongs to channel i."""
    for name, num_levels in NAMES.items():
        per_channel = distributions.outputs_per_channel(name, num_levels, 3)
        parameters = np.zeros((1, 1, 1, 2 * per_channel), np.float32)
        parameters[..., per_channel:] = np.linspace(-1, 1, per_channel) + 0.5
        log_scale = tf.zeros([]) if name == "gaussian" else None
        one, other = (
            tfp.pixel_distribution(name, p, num_levels, 2, log_scale)
            for p in (parameters, np.zeros_like(parameters))
        )
        one, other = table(one, num_levels), table(other, num_levels)
        np.testing.assert_allclose(one[..., 0], other[..., 0])
        assert np.abs(one[..., 1] - other[..., 1]).max() > 0.01


def test_discretised_logistic_equals_the_difference_of_cdfs():
    """In float64, where the naive difference is still exact."""
    num_levels = 256
    loc = np.linspace(-5, 260, 37)[:, None]
    level = np.arange(num_levels, dtype=np.float64)
    for scale in (0.3, 1.0, 7.0, 60.0):
        below = special.expit((level - 0.5 - loc) / scale)
        above = special.expit((level + 0.5 - loc) / scale)
        below[:, 0], above[:, -1] = 0, 1
        naive = above - below
        distribution = tfp.DiscretizedLogistic(
            tf.constant(loc, tf.float32), tf.constant(scale, tf.float32), num_levels
        )
        values = distribution.log_prob(level.astype(np.float32)).numpy()
        assert values.shape == naive.shape
        stable = naive > 1e-8
        assert stable.any(1).all()
        np.testing.assert_allclose(values[stable], np.log(naive[stable]), rtol=2e-4, atol=2e-4)
        # Where the naive difference cancels, the symmetry of the logistic still tells.
        mirrored = tfp.DiscretizedLogistic(
            tf.constant(255 - loc, tf.float32), tf.constant(scale, tf.float32), num_levels
        ).log_prob(255 - level.astype(np.float32))
        np.testing.assert_allclose(values, mirrored, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("raw_scale", [-60.0, -7.0, 0.0, 9.0])
def test_mixture_stays_finite_at_the_extremes(raw_scale):
    """Any network output has a finite log probability with finite gradients at any level."""
    centres = tf.constant([-40.0, -1.0, 0.0, 1.0, 40.0])
    parameters = tf.stack(
        [tf.fill([5], 30.0), centres, tf.fill([5], raw_scale)] * 2, -1
    )  # (5, 2 mixtures * 3)
    parameters = tf.Variable(parameters[:, None, None])
    for level in (0.0, 1.0, 128.0, 255.0):
        with tf.GradientTape() as tape:
            distribution = tfp.pixel_distribution(
                "discretized_logistic_mixture", parameters, 256, 1
            )
            value = distribution.log_prob(tf.fill([5, 1, 1, 1], level))
        assert np.isfinite(value).all()
        assert (value.numpy() < 1e-6).all()
        assert np.isfinite(tape.gradient(value, parameters)).all()


@pytest.mark.parametrize("num_levels", [2, 3, 16])
def test_gaussian_has_no_more_than_probability_one(num_levels):
    """All levels together, however small the learned scale: or its nats would beat every model."""
    means = tf.reshape(tf.linspace(-1.1, 1.1, 221), (-1, 1, 1, 1))
    distribution = tfp.pixel_distribution("gaussian", means, num_levels, 1, tf.constant(-50.0))
    levels = [tf.fill(means.shape, float(level)) for level in range(num_levels)]
    total = sum(np.exp(distribution.log_prob(level), dtype=np.float64) for level in levels)
    assert 0.5 < total.max() < 1.0001


def plain_log_prob(name, parameters, level, log_scale):
    return distributions.log_prob(name, parameters, level, 256, log_scale)


def tfp_log_prob(name, parameters, level, log_scale):
    return tfp.pixel_distribution(name, parameters, 256, 1, log_scale).log_prob(level)


def loss_and_gradient(log_prob, name, log_scale, distance):
    """-log P of a level so far from the centre, and its gradient in the log scale."""
    centre = 128.0 / 127.5 - 1.0
    with tf.GradientTape() as tape:
        tape.watch(log_scale)
        if name == "gaussian":
            parameters, learned = tf.fill((1, 1, 1, 1), centre), log_scale
        else:  # of one component, which begins at -1
            parameters = tf.reshape(tf.stack([0.0, centre + 1.0, log_scale + 2.0]), (1, 1, 1, 3))
            learned = None
        level = tf.reshape(128.0 + distance, (1, 1, 1, 1))
        loss = -tf.reduce_sum(log_prob(name, parameters, level, learned))
    return loss, tape.gradient(loss, log_scale)


@pytest.mark.slow_except(
    "*-gaussian--200.0-10.0--1",
    "plain_log_prob-gaussian--6.0-0.0-0",
    "*_mixture--60.0-10.0--1",
    "plain_log_prob-*_mixture-9.0-0.0-1",
)
@pytest.mark.parametrize(
    ("name", "log_scale", "distance", "sign"),
    [
        # Below the floor, and far below it: a level far off asks for more, one at the centre not.
        ("gaussian", -6.0, 10.0, -1),
        ("gaussian", -50.0, 10.0, -1),
        ("gaussian", -200.0, 10.0, -1),
        ("gaussian", -6.0, 0.0, 0),
        ("discretized_logistic_mixture", -7.5, 10.0, -1),
        ("discretized_logistic_mixture", -60.0, 10.0, -1),
        ("discretized_logistic_mixture", -60.0, 0.0, 0),
        # Above the ceiling, the other way round.
        ("discretized_logistic_mixture", -1.0, 0.0, 1),
        ("discretized_logistic_mixture", 9.0, 0.0, 1),
        ("discretized_logistic_mixture", 9.0, 100.0, 0),
    ],
)
@pytest.mark.parametrize("log_prob", [plain_log_prob, tfp_log_prob])
def test_a_scale_beyond_its_limits_is_led_back(name, log_scale, distance, sign, log_prob):
    """By descent; what asks for more of the same moves nothing. The value is that of the clip."""
    given = log_prob, name, tf.constant(log_scale), tf.constant(distance)
    loss, gradient = loss_and_gradient(*given)
    with portable.without_gradients():
        clipped, none = loss_and_gradient(*given)
    assert loss == clipped
    assert none == 0.0
    assert np.sign(gradient) == sign
    if name == "gaussian" and sign:  # however far below, as steep as where the limit begins
        _, near = loss_and_gradient(log_prob, name, tf.constant(-5.13), tf.constant(distance))
        assert float(gradient) == pytest.approx(float(near), rel=0.1)
    graph = tf.function(loss_and_gradient, jit_compile=log_prob is plain_log_prob)
    np.testing.assert_allclose(graph(*given), (loss, gradient), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "discretized_logistic_mixture"])
def test_gradients_within_the_limits_are_those_of_the_formula(name):
    for log_scale in (-5.0, -3.0, -1.6):
        given = plain_log_prob, name, tf.constant(log_scale), tf.constant(3.0)
        with portable.without_gradients():
            expected = loss_and_gradient(*given)
        np.testing.assert_array_equal(loss_and_gradient(*given), expected)


@pytest.mark.slow_except("gaussian")
@pytest.mark.parametrize("name", ["gaussian", "discretized_logistic_mixture"])
def test_endpoints_hold_no_operation_for_gradients_alone(name, monkeypatch):
    """No other runtime needs to know one."""
    model = VAE((8, 8, 1), 2, filters=(4,), dense_units=4, pixel_distribution=name)
    monkeypatch.delattr(formulas, "_led_back")
    for endpoint in ("decode", "log_likelihood"):
        assert model._graph(endpoint).traced is not None
    with pytest.raises(NameError):
        model.losses_per_image(tf.zeros((1, 8, 8, 1), tf.uint8), None, tf.zeros(1, tf.int64), True)


def test_a_saved_function_keeps_value_and_gradient(tmp_path):
    module = tf.Module()
    module.log_scale = tf.Variable(-6.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 1, 1, 1))], autograph=False)
    def log_prob(level):
        return plain_log_prob("gaussian", tf.zeros_like(level), level, module.log_scale)

    module.log_prob = log_prob
    tf.saved_model.save(module, str(tmp_path))
    loaded, level, found = tf.saved_model.load(str(tmp_path)), tf.fill((2, 1, 1, 1), 200.0), []
    for each in (module, loaded):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(each.log_prob(level))
        found.append((loss, tape.gradient(loss, each.log_scale)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    assert found[0][1] < 0.0


def test_gaussian_is_the_mean_square_error():
    """-log p = sum (x - mean)^2 / (2 sigma^2) + const, with sigma in pixels [-1, 1]."""
    rng = np.random.default_rng(0)
    parameters = rng.uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
    levels = rng.integers(0, 256, (3, *SHAPE)).astype(np.float32)
    distribution = tfp.pixel_distribution("gaussian", parameters, 256, SHAPE[-1], tf.constant(-1.0))
    squares = ((levels / 127.5 - 1 - parameters) ** 2).sum((1, 2, 3))
    sigma = np.exp(-1.0)
    constant = np.prod(SHAPE) * (0.5 * np.log(2 * np.pi) + np.log(sigma * 127.5))
    expected = -squares / (2 * sigma**2) - constant
    np.testing.assert_allclose(distribution.log_prob(levels), expected, rtol=1e-4)


def test_bfloat16_outputs_are_cast():
    for name, num_levels in NAMES.items():
        count = distributions.outputs_per_channel(name, num_levels, 3)
        log_scale = tf.zeros([]) if name == "gaussian" else None
        distribution = tfp.pixel_distribution(
            name, tf.zeros((1, 2, 3, count), tf.bfloat16), num_levels, 1, log_scale
        )
        assert distribution.log_prob(tf.zeros((1, 2, 3, 1))).dtype == tf.float32
