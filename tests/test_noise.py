"""Counter-based noise: the same bits everywhere, each image its own, and well distributed."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfgen import noise, portable

SEEDS = np.array([0, 1, -1, 42, -(2**63), 2**63 - 1, 1 << 33], np.int64)


@pytest.mark.parametrize("seed", SEEDS.tolist())
def test_bits_are_tensorflows_own_philox(seed):
    key = np.array([seed], np.int64).view(np.uint64)
    expected = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[101], key=key, counter=tf.zeros([2], tf.uint64), alg=1, dtype=tf.uint32
    )
    np.testing.assert_array_equal(noise.bits(tf.constant([seed], tf.int64), 101)[0], expected)


@pytest.mark.parametrize("draw", [noise.bits, noise.uniform, noise.normal])
def test_eager_graph_and_xla_agree(draw):
    size = 33 if draw is noise.bits else (3, 11)
    eager = draw(tf.constant(SEEDS), size, 5)
    graph = tf.function(lambda seeds: draw(seeds, size, 5))(tf.constant(SEEDS))
    xla = tf.function(lambda seeds: draw(seeds, size, 5), jit_compile=True)(tf.constant(SEEDS))
    np.testing.assert_array_equal(eager, graph)
    if draw is noise.normal:  # XLA has its own logarithm, and fuses products with sums
        np.testing.assert_allclose(eager, xla, atol=2e-6)
    else:
        np.testing.assert_array_equal(eager, xla)


def test_fold_agrees_under_xla():
    fold = tf.function(lambda seeds: noise.fold(seeds, 7), jit_compile=True)
    np.testing.assert_array_equal(fold(tf.constant(SEEDS)), noise.fold(SEEDS, 7))


def test_portable_noise_has_the_same_bits():
    """From 32-bit integers below 2^31 alone; the stream as a tensor, as a loop gives it, too."""
    words = noise.bits(tf.constant(SEEDS), 101, 70_000) // 2**9
    seeds = tf.concat([SEEDS, tf.cast(np.arange(-300, 300) * 10**13 + 7, tf.int64)], 0)
    for stream in (0, 70_000, tf.constant(70_000)):
        wanted = noise.uniform(seeds, (5, 21), stream)
        with portable.tracing():
            found = tf.function(lambda: noise.uniform(seeds, (5, 21), stream))()  # noqa: B023
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(portable.upper_bits(SEEDS, 101, 70_000), words)


@pytest.mark.slow
def test_onnx_draws_the_same_from_every_seed():
    """Its quotients of integers are truncated, as those of negative seeds show."""
    tf2onnx = pytest.importorskip("tf2onnx")
    from onnx.reference import ReferenceEvaluator

    spec = [tf.TensorSpec((None,), tf.int64, "seeds")]
    graph = tf.function(lambda seeds: {"u": noise.uniform(seeds, (5,))}, spec, autograph=False)
    with portable.tracing():
        proto, _ = tf2onnx.convert.from_function(graph, input_signature=spec, opset=18)
    (found,) = ReferenceEvaluator(proto).run(None, {"seeds": SEEDS})
    np.testing.assert_array_equal(found, noise.uniform(SEEDS, (5,)))


@pytest.mark.parametrize("draw", [noise.bits, noise.uniform, noise.normal])
def test_rows_do_not_depend_on_their_batch(draw):
    size = 10 if draw is noise.bits else (2, 5)
    # Vector instructions may round the last bit of a normal otherwise than its place in a rest.
    rounding = 1e-6 if draw is noise.normal else 0
    together = draw(tf.constant(SEEDS), size).numpy()
    backwards = draw(tf.constant(SEEDS[::-1].copy()), size)[::-1]
    np.testing.assert_allclose(backwards, together, rtol=rounding)
    for i in range(len(SEEDS)):
        alone = draw(tf.constant(SEEDS[i : i + 1]), size)[0]
        np.testing.assert_allclose(alone, together[i], rtol=rounding)


def test_more_words_begin_with_the_same():
    few, many = (noise.bits(tf.constant(SEEDS), words).numpy() for words in (5, 64))
    np.testing.assert_array_equal(few, many[:, :5])


def test_seeds_and_streams_differ():
    """One word of 2^32 for each of 4,000 pairs: two equal ones are a chance of 1 in 500."""
    seeds = tf.range(200, dtype=tf.int64)
    words = [noise.bits(seeds, 4, stream).numpy() for stream in range(20)]
    assert len(np.unique(np.concatenate(words)[:, 0])) == 4000
    as_tensor = tf.function(lambda stream: noise.bits(seeds, 4, stream))(tf.constant(3))
    np.testing.assert_array_equal(as_tensor, words[3])


def test_folds_differ_from_each_other_and_from_their_seeds():
    seeds = tf.range(100, dtype=tf.int64)
    folded = noise.fold(seeds[:, None], tf.range(-50, 50, dtype=tf.int64)).numpy()
    assert folded.shape == (100, 100)
    assert folded.dtype == np.int64
    assert len(np.unique(np.append(folded, np.arange(-100, 100)))) == 10_200
    np.testing.assert_array_equal(noise.fold(3, 4), folded[3, 54])
    assert noise.fold(3, 4) != noise.fold(4, 3)
    assert noise.fold(3, 4) != noise.fold(3, 4 + 2**32), "the upper half counts too"
    assert noise.fold(noise.fold(3, 1), 2) != noise.fold(noise.fold(3, 2), 1)


def test_uniform_is_inside_the_unit_interval():
    u = noise.uniform(tf.range(4, dtype=tf.int64), (250_000,)).numpy()
    assert u.dtype == np.float32
    assert u.min() > 0
    assert u.max() < 1
    np.testing.assert_array_equal(np.mod(u.astype(np.float64) * 2**24, 2), 1)


def test_the_ends_of_uniform_lie_inside(monkeypatch):
    """Chance alone would hardly reach them."""
    monkeypatch.setattr(noise, "bits", lambda *given: tf.constant([[0, 2**32 - 1]], tf.uint32))
    (ends,) = noise.uniform(tf.zeros(1, tf.int64), (2,)).numpy()
    assert 0 < ends[0] < 2.0**-23
    assert 1 - 2.0**-23 < ends[1] < 1


def test_uniform_is_uniform():
    u = noise.uniform(tf.range(1000, dtype=tf.int64), (200,), stream=2).numpy()
    for values in (u.ravel(), u[:, 0], u[0]):
        counts = np.histogram(values, bins=20, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-3
    pairs = np.histogram2d(u[:, :-1].ravel(), u[:, 1:].ravel(), bins=8, range=[(0, 1)] * 2)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3
    along_seeds = np.histogram2d(u[:-1].ravel(), u[1:].ravel(), bins=8, range=[(0, 1)] * 2)[0]
    assert stats.chisquare(along_seeds.ravel()).pvalue > 1e-3


def test_normal_is_normal():
    z = noise.normal(tf.range(1000, dtype=tf.int64), (10, 20)).numpy().ravel()
    assert z.dtype == np.float32
    assert np.abs(z).max() < 5.5
    edges = np.concatenate([[-np.inf], stats.norm.ppf(np.arange(1, 20) / 20), [np.inf]])
    counts = np.histogram(z, bins=edges)[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    error = 1 / np.sqrt(z.size)
    moments = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}  # power: (value, variance)
    for power, (value, variance) in moments.items():
        assert abs(np.mean(z.astype(np.float64) ** power) - value) < 4 * error * variance**0.5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_quantile_of_every_uniform(jit_compile):
    """All 2^23 values that `uniform` can draw, against SciPy in float64."""
    u = ((np.arange(2**23) + 0.5) * 2.0**-23).astype(np.float32)
    z = tf.function(noise.quantile, jit_compile=jit_compile)(u).numpy()
    error = np.abs(z - special.ndtri(u.astype(np.float64)))
    assert error.max() < 1.5e-6
    assert np.mean(error) < 1e-7
    np.testing.assert_array_equal(z, -z[::-1])  # symmetric, so that the mean is zero
    assert (np.diff(z) >= -1e-6).all()  # ascending, to rounding


def test_shapes():
    seeds = tf.constant([1, 2, 3], tf.int64)
    assert noise.uniform(seeds, ()).shape == (3,)
    assert noise.normal(seeds, (2, 0)).shape == (3, 2, 0)
    assert noise.bits(seeds[:0], 5).shape == (0, 5)
    assert noise.fold(1, 2).shape == ()
