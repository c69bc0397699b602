"""Graphs follow the model: what changes what a graph would hold makes a new one, or is refused."""

import concurrent.futures
import math
import re
import time
import warnings
from fractions import Fraction

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import FAMILIES, FIRST_AND_CONDITIONAL, VARIED

from tfgen import GAN, VAE, AutoEncoder, tuning, zoo
from tfgen.models import endpoints
from tfgen.models.classifier import Classifier
from tfgen.optimizers import GroupedAdam

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
COPY_NOTHING = ("SGD", "Adam", "Nadam", "Lion")  # optimizers whose slots begin at 0


@pytest.fixture(scope="session", params=FIRST_AND_CONDITIONAL)
def first_case(request):
    """Conditional models, too."""
    return request.param


def fit(model, **arguments):
    return model.fit(IMAGES, batch_size=8, verbose=0, **arguments)


def assert_same_as_a_copy(model, call, tmp_path) -> None:
    """What the model gives is what a fresh model of the same weights gives."""
    model.save_to_preset(tmp_path / "copy")
    np.testing.assert_allclose(call(model), call(zoo.load(tmp_path / "copy")), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_endpoints_after_adapters_have_trained(first_case, tmp_path):
    """Every endpoint was called before; LoRA then replaces the kernels it read."""
    model = laws.randomised(first_case())
    images, given = laws.images_for(model, 4), laws.given(model, laws.labels_for(model, 4))

    def call(model):
        name = next(n for n in ("log_likelihood", "encode", "score") if n in model.capabilities)
        return np.asarray(getattr(model, name)(images, **given))

    before = call(model)
    model.enable_lora(2, "*")
    model.compile(*[keras.optimizers.Adam(0.1) for _ in model.updates_per_step], jit_compile=False)
    model.fit(images, laws.labels_for(model, 4), epochs=5, verbose=0)
    assert (call(model) != before).any(), "the endpoint still runs what it was made from"
    assert_same_as_a_copy(model, call, tmp_path)


def test_features_of_a_classifier_after_adapters_have_trained(tmp_path):
    model = laws.randomised(Classifier((8, 8, 1), 3, filters=(4,), feature_units=5))
    before = model.features(IMAGES)
    model.enable_lora(2, "encoder_trunk")
    model.compile(keras.optimizers.Adam(0.1), jit_compile=False)
    model.fit(IMAGES, np.arange(8) % 3, epochs=3, verbose=0)
    assert (model.features(IMAGES) != before).any()
    assert_same_as_a_copy(model, lambda m: m.features(IMAGES), tmp_path)


@pytest.mark.slow
def test_beta_between_two_fits():
    losses = {}
    for changed in (False, True):
        keras.utils.set_random_seed(0)
        model = VAE(**SMALL, beta=1.0)
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
        fit(model)
        if changed:
            model.beta = 100.0
        losses[changed] = fit(model).history
        evaluated = model.evaluate(IMAGES, batch_size=8, verbose=0, return_dict=True)
        expected = evaluated["reconstruction"] + model.beta * evaluated["kl"]
        assert evaluated["loss"] == pytest.approx(expected, rel=1e-5)
    history = losses[True]
    assert history["loss"][0] == pytest.approx(
        history["reconstruction"][0] + 100.0 * history["kl"][0], rel=1e-5
    )
    assert losses[False]["kl"] == pytest.approx(history["kl"])


def test_a_model_inside_a_layer_leaves_the_losses_of_the_outer_one_alone():
    class Features(keras.layers.Layer):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def call(self, x):
            return self.model.encoder(x)

    layers = [keras.Input((8, 8, 1)), Features(VAE(**SMALL)), keras.layers.Dense(3)]
    outer = keras.Sequential(layers)
    outer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = outer.fit(IMAGES, np.arange(8) % 3, verbose=0).history
    assert set(history) == {"loss"}
    assert history["loss"][0] > 0.1


def test_metrics_of_a_subclass_begin_again_with_each_epoch():
    class Watched(AutoEncoder):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seen = keras.metrics.Mean("seen")

        def train_step(self, data):
            logs = super().train_step(data)
            self.seen.update_state(tf.cast(self.step, tf.float32))
            return logs | {"seen": self.seen.result()}

    model = Watched(**SMALL)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    first, second = fit(model, epochs=2).history["seen"]
    assert second == first + 1


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_callback_sets_beta_in_the_middle_of_a_fit(run_eagerly):
    model = VAE(**SMALL, beta=1.0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=run_eagerly, jit_compile=False)
    rise = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(model, "beta", 1.0 + 99.0 * epoch)
    )
    log = fit(model, epochs=2, callbacks=[rise]).history
    for beta, loss, error, kl in zip(
        (1, 100), log["loss"], log["reconstruction"], log["kl"], strict=True
    ):
        assert loss == pytest.approx(error + beta * kl, rel=1e-5)


@pytest.mark.slow_except("False")
@pytest.mark.parametrize("evaluated_before", [False, True])
def test_a_callback_sets_beta_around_a_validation(evaluated_before):
    """After `evaluate` has been made ready, and before its first step traces a graph."""
    model = VAE(**SMALL, beta=4.0)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    if evaluated_before:
        model.evaluate(IMAGES, verbose=0)
    swap = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: setattr(model, "beta", 1.0),
        on_test_end=lambda logs: setattr(model, "beta", 4.0),
    )
    log = fit(model, validation_data=IMAGES, callbacks=[swap]).history
    expected = log["val_reconstruction"][0] + log["val_kl"][0]
    assert log["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    found = model.evaluate(IMAGES, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["reconstruction"] + 4 * found["kl"], rel=1e-5)


@pytest.mark.slow_except("VAE", "GAN")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_of_numpy_that_is_set_becomes_pythons(family):
    """As one that is given does: TensorFlow would compute with its dtype."""
    model = FAMILIES[family](**VARIED[family][0])
    for name in model.settable:
        value = getattr(model, name)
        if isinstance(value, float):
            setattr(model, name, np.float64(value))
            assert type(getattr(model, name)) is float
            assert getattr(model, name) == value


def test_what_is_not_compiled_counts_the_steps_behind_its_weights():
    model = VAE(**SMALL, kl_warmup_steps=8)
    seeds = tf.range(8, dtype=tf.int64)

    def kl_weight():
        losses = model.losses_per_image(tf.constant(IMAGES), None, seeds, True)
        return float((losses["loss"] - losses["reconstruction"])[0] / losses["kl"][0])

    assert kl_weight() == pytest.approx(0.0, abs=1e-2)
    model.steps_before = 4
    assert kl_weight() == pytest.approx(0.5, abs=1e-2)


def test_a_callback_freezes_a_part_in_the_middle_of_a_fit():
    model, seen = AutoEncoder(**SMALL), []

    def on_epoch_begin(epoch, logs):
        if epoch == 1:
            model.freeze("encoder")
        seen.append([part.get_weights() for part in (model.encoder, model.decoder)])

    model.compile(keras.optimizers.Adam(0.1), jit_compile=False)
    freezing = keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin)
    fit(model, epochs=2, callbacks=[freezing])
    assert model.steps_trained == 2
    for own, before in zip(model.encoder.get_weights(), seen[1][0], strict=True):
        np.testing.assert_array_equal(own, before)
    for moved, before in (seen[1][0], seen[0][0]), (model.decoder.get_weights(), seen[1][1]):
        assert any((own != old).any() for own, old in zip(moved, before, strict=True))


def test_a_callback_that_freezes_does_not_take_back_the_end_of_a_fit():
    model = AutoEncoder(**SMALL)

    def on_epoch_end(epoch, logs):
        model.stop_training = True
        model.freeze("encoder")

    model.compile("sgd", jit_compile=False)
    ending = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    assert fit(model, epochs=3, callbacks=[ending]).epoch == [0]


@pytest.mark.slow
def test_graphs_of_many_temperatures_do_not_pile_up():
    model = GAN(**SMALL)
    first = model.sample(2, seed=0, temperature=0.5)
    for temperature in np.linspace(0.6, 1.0, 2 * endpoints.MOST_GRAPHS):
        model.sample(1, seed=0, temperature=float(temperature))
        model.latents(1, seed=0)  # in use all the time, so it stays
    assert len(model._graphs) == endpoints.MOST_GRAPHS
    assert ("latents", 1.0, 1, False) in model._graphs
    np.testing.assert_array_equal(model.sample(2, seed=0, temperature=0.5), first)


def test_threads_share_the_graphs_of_a_model(monkeypatch):
    model, inside, most = GAN(**SMALL), [], []
    new_graph = model._new_graph

    def noted(*key):
        inside.append(key)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return new_graph(*key)

    monkeypatch.setattr(model, "_new_graph", noted)
    temperatures = np.linspace(0.1, 1.0, endpoints.MOST_GRAPHS + 4).tolist()

    def drawn(temperature):
        for often in (0.1, 1.0):
            model.sample(1, seed=0, temperature=often)
        return model.sample(1, seed=0, temperature=temperature)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(drawn, temperatures))
    assert max(most) == 1, "two threads changed the graphs at once"
    for temperature, images in zip(temperatures, found, strict=True):
        np.testing.assert_array_equal(images, model.sample(1, seed=0, temperature=temperature))


def test_candidates_after_a_sample():
    model = laws.randomised(GAN(**SMALL, candidates=8, selectivity=20.0))
    chosen = model.sample(16, seed=0)
    model.candidates = 1
    plain = model.sample(16, seed=0)
    assert (plain != chosen).any()
    np.testing.assert_array_equal(plain, model.decode(model.latents(16, seed=0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_argument_that_shapes_the_network_cannot_be_set(family):
    model = FAMILIES[family](**VARIED[family][0])
    config = model.get_config()
    for name, argument in laws.constructor_arguments(FAMILIES[family]).items():
        setattr(model, name, getattr(model, name))  # nothing changes
        if name not in model.settable and getattr(model, name) != argument.default:
            with pytest.raises(AttributeError, match=rf"^{name} of a .*load it changed"):
                setattr(model, name, argument.default)
        assert model.get_config() == config


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_that_the_constructor_refuses_cannot_be_set(family):
    given = VARIED[family][0]
    model = FAMILIES[family](**given)
    config, refused = model.get_config(), []
    for name in model.settable:
        try:
            FAMILIES[family](**{**given, name: -1})
        except ValueError as error:
            with pytest.raises(ValueError, match=rf"^{re.escape(str(error))}$"):
                setattr(model, name, -1)
            refused.append(name)
    assert model.get_config() == config
    assert set(model.settable) - {"seed"} == set(refused)


NOT_NUMBERS = (math.nan, math.inf, 1e39, 10**400, Fraction(1, 2), True, "0.5", None)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_number_or_no_flag_is_refused_by_name(family):
    given = VARIED[family][0]
    for name, argument in laws.constructor_arguments(FAMILIES[family]).items():
        wrong = {float: NOT_NUMBERS, bool: (0, 1, "no", None)}.get(type(argument.default), ())
        for value in wrong:
            with pytest.raises(ValueError, match=rf"^{name} must .*; received "):
                FAMILIES[family](**{**given, name: value})


NO_SIZES = (32, (4, 1.5), (4, -1), (True, 4), "44", 4.5, ())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_list_of_sizes_is_refused_by_name(family):
    given = VARIED[family][0]
    for name, argument in laws.constructor_arguments(FAMILIES[family]).items():
        optional = ("decoder_filters", "generator_filters")
        if isinstance(argument.default, tuple) or name in optional:
            values = (*NO_SIZES, *([] if name in optional else [None]))
            may_be_dense = name == "filters" and family in ("AutoEncoder", "VAE")
            for value in (v for v in values if not (may_be_dense and v == ())):
                with pytest.raises(ValueError, match=rf"^{name} must .*; received "):
                    FAMILIES[family](**{**given, name: value})


@pytest.mark.parametrize("of", [list, np.array, tf.TensorShape, tuple])
def test_a_shape_may_be_in_whatever_holds_it(of):
    model = VAE(of([8, 8, 1]), latent_dim=2, filters=[4], dense_units=8, seed=np.array(3))
    assert model.image_shape == (8, 8, 1)
    assert all(type(side) is int for side in model.image_shape)
    assert model.get_config()["seed"] == 3


@pytest.mark.parametrize("shape", [28, (8, 8), (0, 8, 1), (-8, 8, 1), (8.5, 8, 1), (8, 8, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_shape_of_images_is_refused_by_name(family, shape):
    if "image_shape" in VARIED[family][0]:
        with pytest.raises(ValueError, match=r"^image_shape must .*; received "):
            FAMILIES[family](**{**VARIED[family][0], "image_shape": shape})


def test_decoders_have_at_most_a_stage_more_than_encoders():
    with pytest.raises(ValueError, match="decoder_filters must have at most one entry more"):
        VAE((8, 8, 1), filters=(4,), decoder_filters=(4, 4, 4))
    with pytest.raises(ValueError, match="decoder_blocks must be an integer of at least 0"):
        VAE((8, 8, 1), filters=(4,), decoder_blocks=-3)


def test_a_decoder_of_a_stage_more_than_its_encoder():
    model = VAE((8, 8, 1), filters=(4,), decoder_filters=(6, 4), dense_units=4)
    images = laws.images_for(model, 3)
    model.compile(jit_compile=False)
    model.fit(images, verbose=0)
    assert model.sample(2, seed=0).shape == (2, 8, 8, 1)
    assert model.reconstruct(images).shape == images.shape
    stages = ("stage_0_activation", "stage_1_activation")
    assert [model.decoder.get_layer(name).output.shape[-1] for name in stages] == [6, 4]


def test_a_decoder_of_fewer_blocks_than_its_encoder():
    model = VAE((8, 8, 1), filters=(4,), num_blocks=1, decoder_blocks=0, dense_units=4)
    blocks = {
        name: [layer.name for layer in getattr(model, name).layers if "_block_" in layer.name]
        for name in ("encoder", "decoder")
    }
    assert blocks["encoder"]
    assert not blocks["decoder"]


@pytest.mark.slow_except("AutoEncoder-False", "GAN-True")
@pytest.mark.parametrize("again", [True, False])
def test_a_model_with_a_frozen_layer_goes_on_counting_where_it_was_saved(
    first_case, again, tmp_path
):
    """Frozen by Keras' own attribute, after its optimizers had slots for all weights."""
    model = first_case()
    model.compile(jit_compile=False)
    images, labels = laws.images_for(model, 4), laws.labels_for(model, 4)
    model.fit(images, labels, verbose=0)
    model.layers[0].trainable = False
    if again:
        model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras skips slots that do not fit
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.steps_trained == model.steps_trained == 1 + again
    for name, (optimizer, _) in model.optimizers.items():
        own = loaded.optimizers[name][0].variables
        for variable, expected in zip(own, optimizer.variables, strict=True):
            np.testing.assert_array_equal(variable, expected)


def test_the_average_of_an_optimizer_after_a_layer_was_frozen():
    """Keras puts the averages into the weights that train, one after the other."""
    model = AutoEncoder(**SMALL)
    model.compile(keras.optimizers.Adam(use_ema=True), jit_compile=False)
    fit(model)
    model.layers[0].trainable = False
    frozen = [weight.numpy() for weight in model.layers[0].weights]
    fit(model)
    for weight, before in zip(model.layers[0].weights, frozen, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_a_fit_of_no_step_leaves_the_weights():
    """Also where an optimizer's own averages, which Keras begins at zero, replace them."""
    model = AutoEncoder(**SMALL)
    model.compile(keras.optimizers.Adam(use_ema=True), jit_compile=False)
    before = model.get_weights()
    fit(model, epochs=2, initial_epoch=2)
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, old)


def test_xla_fills_up_the_last_batch():
    """It would compile again for another number of rows."""
    model = laws.randomised(GAN(**SMALL))
    plain = model.sample(5, seed=0, batch_size=2)
    model.jit_sampling = True
    laws.assert_close_images(model.sample(5, seed=0, batch_size=2), plain, 256)
    assert [key[3] for key in model._graphs] == [False, True]
    for graph, rows in zip(list(model._graphs.values()), ([2, 2, 1], [2, 2, 2]), strict=True):
        seen, traced = [], graph.traced

        def noted(*batch, seen=seen, traced=traced):
            seen.append(int(batch[0].shape[0]))
            return traced(*batch)

        vars(graph)["traced"] = noted
        model.jit_sampling = rows == [2, 2, 2]
        model.sample(5, seed=0, batch_size=2)
        assert seen == rows


class OwnAdam(keras.optimizers.Adam):
    """Registered nowhere."""


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Registered nowhere."""

    def __call__(self, step):
        return 1e-3

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: OwnAdam(1e-3),
        lambda: keras.optimizers.Adam(OwnSchedule()),
        lambda: keras.optimizers.Adam(lambda: 1e-3),
    ],
    ids=["class", "schedule", "function"],
)
def test_weights_freeze_under_optimizers_that_keras_could_not_load(make):
    model = VAE(**SMALL)
    model.compile(make(), run_eagerly=True)
    given = model.optimizer
    model.freeze("encoder")
    assert type(model.optimizer) is type(given)
    assert type(model.optimizer._learning_rate) is type(given._learning_rate)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    fit(model)
    model.decoder.trainable = False
    fit(model)
    model.unfreeze()
    fit(model)
    assert model.steps_trained == 3


@pytest.mark.slow_except("mixed_float16")
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_what_an_optimizer_keeps_once_goes_on_where_fewer_weights_train(dtype):
    """Nadam's product, and the scale of the loss in 16 bits."""
    model, optimizer = VAE(**SMALL, dtype=dtype), keras.optimizers.Nadam(1e-3)
    if dtype == "mixed_float16":  # Keras' first scale is so large that it skips the first steps
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
    model.compile(optimizer, jit_compile=False)
    fit(model, epochs=3)

    def kept():
        outer = model.optimizer
        inner = getattr(outer, "inner_optimizer", outer)
        scale = [outer.dynamic_scale, outer.step_counter] if outer is not inner else []
        return [float(v) for v in (inner._u_product, inner._iterations, *scale)]

    before = kept()
    assert before[0] < 1.0
    model.encoder.trainable = False
    model.build_optimizers()
    assert kept() == before


@pytest.mark.slow_except("flow-encoder-*", "standard_normal-decoder-attribute")
@pytest.mark.parametrize("how", ["attribute", "freeze"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("prior", ["standard_normal", "flow"])
def test_fewer_weights_that_train_go_on_with_their_optimizer(how, part, prior):
    """Each weight that is not frozen keeps its moments, and counts and rates stay.

    Several networks have layers of one name.
    """
    model = VAE(**SMALL, prior=prior, prior_components=2)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    fit(model)
    model.optimizer.learning_rate = 3e-3

    def moments():
        optimizer = model.optimizer
        weights = [id(weight) for weight in optimizer._trainable_variables]
        slots = zip(optimizer._momentums, optimizer._velocities, strict=True)
        values = [(m.numpy(), v.numpy()) for m, v in slots]
        return dict(zip(weights, values, strict=True))

    before = moments()
    if how == "freeze":
        model.freeze(part)
    else:
        getattr(model, part).trainable = False
        model.build_optimizers()
    after = moments()
    assert 0 < len(after) < len(before)
    for weight, values in after.items():
        for value, expected in zip(values, before[weight], strict=True):
            np.testing.assert_array_equal(value, expected)
    assert int(model.optimizer.iterations) == model.steps_trained == 1
    assert float(model.optimizer.learning_rate) == pytest.approx(3e-3)
    fit(model)
    getattr(model, part).trainable = True  # now there are slots to be made
    fit(model)
    assert model.steps_trained == 3


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_a_call_that_changes_nothing_leaves_the_optimizers_alone(first_case):
    model = first_case()
    model.compile(run_eagerly=True)
    part = next(n for n, v in tuning.weights(model).items() if v.trainable and "/" in n)
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)

    def state():
        held = [optimizer for optimizer, _ in model.optimizers.values()]
        values = [v.numpy() for optimizer in held for v in optimizer.variables]
        return [id(optimizer) for optimizer in held], model.steps_trained, values

    for change, nothing in (
        (lambda: None, lambda: model.unfreeze()),
        (lambda: None, lambda: model.unfreeze(part)),
        (lambda: model.freeze(part), lambda: model.freeze(part)),
        (lambda: model.unfreeze(), lambda: model.freeze()),
    ):
        change()
        model.train_on_batch(images, labels)
        *before, slots = state()
        assert nothing() == []
        *after, own = state()
        assert after == before
        for value, old in zip(own, slots, strict=True):
            np.testing.assert_array_equal(value, old)


@pytest.mark.slow_except("one-ScheduleFreeAdamW", "two-Adam")
@pytest.mark.parametrize(
    ("family", "part", "name"),
    [
        *[(AutoEncoder, "encoder", name) for name in (*COPY_NOTHING, "ScheduleFreeAdamW")],
        *[(GAN, "generator/to_grid", name) for name in COPY_NOTHING],
    ],
    ids=[
        *[f"one-{name}" for name in (*COPY_NOTHING, "ScheduleFreeAdamW")],
        *[f"two-{name}" for name in COPY_NOTHING],
    ],
)
def test_weights_that_are_set_before_the_first_step_are_trained(family, part, name):
    """Also under an optimizer that copies them, which is not built before the first step."""
    model, make = family(**SMALL), getattr(keras.optimizers, name)
    optimizers = [make(1e-6, clipnorm=1.0) for _ in model.updates_per_step]
    model.compile(*optimizers, run_eagerly=True)
    model.freeze(part)
    chosen = [weight + 0.1 for weight in model.get_weights()]
    model.set_weights(chosen)
    model.train_on_batch(IMAGES)
    for own, value in zip(model.get_weights(), chosen, strict=True):
        np.testing.assert_allclose(own, value, atol=1e-3)


@pytest.mark.parametrize("name", ["generator_optimizer", "discriminator_optimizer"])
def test_an_optimizer_that_copies_weights_is_refused_for_two_networks(name):
    model = GAN(**SMALL)
    for given in ("ScheduleFreeAdamW", keras.optimizers.ScheduleFreeAdamW()):
        with pytest.raises(ValueError, match=rf"^{name} must not be a ScheduleFreeAdamW, .*AdamW"):
            model.compile(**{name: given})
    assert not model.compiled


def test_an_untrained_gan_has_slots_to_load():
    model = GAN(**SMALL)
    model.compile(run_eagerly=True)
    for change in (lambda: None, lambda: model.freeze("generator/to_grid"), model.unfreeze):
        change()
        assert all(optimizer.built for optimizer, _ in model.optimizers.values())


@pytest.mark.parametrize("family", [AutoEncoder, GAN])
def test_rates_by_variable_outlive_a_layer_that_stops_training(family):
    """Also one that is frozen by hand between `compile` and `fit`."""
    model = family(**SMALL)
    model.compile()
    factors = {
        id(variable): 0.5 + index
        for _, variables in model.optimizers.values()
        for index, variable in enumerate(variables)
    }
    grouped = [GroupedAdam([factors[id(v)] for v in vs]) for _, vs in model.optimizers.values()]
    model.compile(*grouped, run_eagerly=True)
    part = model.encoder if family is AutoEncoder else model.generator
    next(layer for layer in part.layers if layer.trainable_variables).trainable = False
    model.train_on_batch(IMAGES)
    for optimizer, variables in model.optimizers.values():
        assert optimizer.factors == [factors[id(v)] for v in variables]


def several_optimizers():
    return keras.optimizers.MultiOptimizer(lambda weight: keras.optimizers.Adam())


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_a_refused_compile_changes_nothing(first_case):
    model = first_case()
    names, foreign = list(model.updates_per_step), keras.optimizers.Adam()
    foreign.build([keras.Variable(1.0)])
    scaled = keras.optimizers.LossScaleOptimizer(several_optimizers())
    wrong = ["no such optimizer", 3, several_optimizers(), scaled]
    refused = [{name: given} for name in names for given in wrong]
    refused += [{"loss": "mse"}, {"metrics": ["mae"]}, {"no_such_option": 1}]
    if len(names) == 1:
        refused.append({"optimizer": None})
    else:
        refused += [{name: foreign} for name in names]
        refused.append(dict.fromkeys(names, keras.optimizers.Adam()))
        refused.append({names[1]: keras.optimizers.Adam(use_ema=True)})
    refused += [{name: GroupedAdam([1.0])} for name in names]

    def state():
        held = model.optimizers.values() if model.compiled else ()
        return model.compiled, model.steps_trained, [id(optimizer) for optimizer, _ in held]

    def assert_nothing_changes():
        before = state()
        for given in refused:
            with pytest.raises((ValueError, TypeError), match=next(iter(given))):
                model.compile(**given)
            assert state() == before, given

    assert_nothing_changes()
    model.compile(run_eagerly=True)
    model.train_on_batch(laws.images_for(model, 2), laws.labels_for(model, 2))
    assert_nothing_changes()
    before = state()
    for given in (None, several_optimizers()):
        with pytest.raises(ValueError, match=r"^optimizer must"):
            model.optimizer = given
        assert state() == before


@pytest.mark.parametrize("name", ["optimizer", "generator_optimizer", "discriminator_optimizer"])
def test_what_is_no_single_optimizer_is_refused_by_name(name):
    model = AutoEncoder(**SMALL) if name == "optimizer" else GAN(**SMALL)
    with pytest.raises(ValueError, match=rf"^{name} must not be a MultiOptimizer, .*Pass one"):
        model.compile(**{name: several_optimizers()})
    for wrong in ("no such optimizer", 3):
        message = f"^{name} must be a Keras optimizer or its name; received {wrong!r}. Pass"
        with pytest.raises(ValueError, match=message):
            model.compile(**{name: wrong})


def test_xla_that_is_set_stays_when_the_optimizers_are_made_again():
    model = AutoEncoder(**SMALL)
    model.compile(jit_compile=True)
    model.jit_compile = False
    model.freeze("encoder")
    assert model.jit_compile is False
    assert model.get_compile_config()["jit_compile"] is False


def test_exclusions_from_weight_decay_survive_freezing():
    model = AutoEncoder(**SMALL)
    optimizer = keras.optimizers.AdamW(0.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, jit_compile=False)
    for weight in model.trainable_variables:
        weight.assign(np.ones(weight.shape))
    model.freeze("encoder")
    assert model.optimizer is not optimizer
    decayed = {
        weight.path: model.optimizer._use_weight_decay(weight)
        for weight in model.trainable_variables
    }
    assert decayed == {path: not path.endswith("bias") for path in decayed}
    assert len(set(decayed.values())) == 2


def test_a_saved_model_leaves_xla_to_the_machine_that_loads_it():
    model = AutoEncoder(**SMALL)
    for given in ("auto", True, False):
        model.compile(jit_compile=given)
        assert model.get_compile_config()["jit_compile"] == given
    model.compile()
    assert model.get_compile_config()["jit_compile"] == "auto"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_that_is_set_is_an_integer(family, tmp_path):
    model = FAMILIES[family](**VARIED[family][0])
    model.seed = np.int64(7)
    assert zoo.load(model.save_to_preset(tmp_path / "model")).seed == 7
    for wrong in (None, float("nan"), 1.5, 2**63, True):
        with pytest.raises(ValueError, match="seed must be an integer of 64 bits; received"):
            model.seed = wrong
    assert model.seed == 7


def test_a_setting_stays_as_it_was_whatever_its_check_raises(monkeypatch):
    model = VAE(**SMALL)

    def check():
        raise TypeError("not a number")

    monkeypatch.setitem(model.__dict__, "check_settings", check)
    with pytest.raises(TypeError, match="not a number"):
        model.beta = 2.0
    assert model.beta == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_argument_that_is_set_acts_as_one_that_was_given(family):
    given = VARIED[family][0]
    model = laws.randomised(FAMILIES[family](**given, name="model"))
    weights, images = model.get_weights(), laws.images_for(model, 4)
    labels = laws.labels_for(model, 4)

    def results(model):
        model.set_weights(weights)
        model.steps_before += 100 - model.steps_trained  # behind the warm-ups
        logs = model.train_on_batch(images, labels, return_dict=True)
        moved = model.get_weights()
        own = laws.given(model, laws.labels_for(model, 32))
        drawn = model.sample(32, seed=0, **own) if "sample" in model.capabilities else 0
        return [*logs.values(), *moved, drawn]

    def compiled(model):
        optimizers = [keras.optimizers.SGD(0.01) for _ in model.updates_per_step]
        model.compile(*optimizers, run_eagerly=True)
        return model

    before = results(compiled(model))
    for name in model.settable:
        default = laws.constructor_arguments(FAMILIES[family])[name].default
        twin = compiled(FAMILIES[family](**{**given, name: default}, name="model"))
        setattr(model, name, default)
        found, expected = results(model), results(twin)
        setattr(model, name, given[name])
        for own, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5, err_msg=name)
        if name not in ("prior_steps", "kl_warmup_steps", "selectivity"):  # which change little
            assert any(np.any(own != old) for own, old in zip(found, before, strict=True)), name


@pytest.mark.slow_except("AutoEncoder")
def test_trainable_of_a_layer_between_two_fits(first_case):
    """Keras' own way to freeze; without another `compile` too."""
    model = laws.randomised(first_case())
    model.compile(*[keras.optimizers.SGD(0.1) for _ in model.updates_per_step], jit_compile=False)
    images, labels, part = laws.images_for(model, 4), laws.labels_for(model, 4), model.layers[0]

    def moves():
        before = [weight.numpy() for weight in part.weights]
        model.fit(images, labels, verbose=0)
        return any((w.numpy() != b).any() for w, b in zip(part.weights, before, strict=True))

    assert moves()
    part.trainable = False
    assert not moves()
    model.compile(*[keras.optimizers.SGD(0.1) for _ in model.updates_per_step], jit_compile=False)
    assert not moves()
    part.trainable = True
    assert moves()


def test_attributes_of_keras_between_two_fits(monkeypatch):
    model, eager = AutoEncoder(**SMALL), []
    model.compile(jit_compile=False)
    fit(model)
    losses_of = AutoEncoder.losses_per_image

    def noted(self, *given, **named):
        eager.append(tf.executing_eagerly())
        return losses_of(self, *given, **named)

    monkeypatch.setattr(AutoEncoder, "losses_per_image", noted)
    model.run_eagerly = True
    fit(model)
    assert eager == [True]
    model.run_eagerly = False
    fit(model)
    model.optimizer = keras.optimizers.SGD(0.0)
    before = model.get_weights()
    fit(model)
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, old)


class ReportsStep(AutoEncoder):
    """Its loss is the step that a graph runs at."""

    def losses_per_image(self, images, labels, seeds, training):
        losses = super().losses_per_image(images, labels, seeds, training)
        return losses | {"loss": 0.0 * losses["loss"] + tf.cast(self.step, tf.float32)}


def test_a_graph_runs_at_the_step_that_is_told():
    """However it came about; only where the steps are set themselves may they change."""
    model, counted = ReportsStep(**SMALL), keras.optimizers.SGD(0.0)
    counted.iterations.assign(7)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    fit(model, epochs=2)
    for name, value in (
        ("steps_before", 40),
        ("optimizer", counted),
        ("optimizer", "sgd"),
        ("steps_before", 0),
        ("run_eagerly", True),
        ("run_eagerly", False),
    ):
        steps = model.steps_trained
        setattr(model, name, value)
        assert name == "steps_before" or model.steps_trained == steps
        steps = model.steps_trained
        assert fit(model).history["loss"] == [steps]
        assert model.steps_trained == steps + 1
        assert model.evaluate(IMAGES, batch_size=8, verbose=0)[0] == steps + 1
    for change in (
        lambda: model.freeze("encoder"),
        lambda: model.compile(keras.optimizers.SGD(0.0), jit_compile=False),
    ):
        steps = model.steps_trained
        change()
        assert model.steps_trained == steps
        assert fit(model).history["loss"] == [steps]


class AddsLoss(AutoEncoder):
    """Adds its loss once more, by Keras' own way."""

    def losses_per_image(self, images, labels, seeds, training):
        losses = super().losses_per_image(images, labels, seeds, training)
        self.add_loss(tf.reduce_mean(losses["loss"]))
        return losses


@pytest.mark.parametrize("eager", [False, True])
def test_losses_that_a_subclass_adds_are_those_of_the_step(eager):
    """Not of an earlier step, nor of another graph."""
    model = AddsLoss(**SMALL)
    for _ in range(2):
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=eager, jit_compile=False)
        fit(model, epochs=2)
        model.evaluate(IMAGES, batch_size=8, verbose=0)
        assert len(model.losses) == 1


def test_losses_that_a_subclass_adds_move_weights():
    moves = []
    for family in (AutoEncoder, AddsLoss):
        keras.utils.set_random_seed(0)
        model = family(**SMALL)
        model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
        before = model.get_weights()
        fit(model)
        moves.append([a - b for a, b in zip(model.get_weights(), before, strict=True)])
    for once, twice in zip(*moves, strict=True):
        np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-3, atol=1e-5)


def test_an_unchanged_model_keeps_its_graphs():
    model = AutoEncoder(**SMALL)
    model.compile(jit_compile=False)
    model.encode(IMAGES), fit(model)
    graph, step = model._graph("encode"), model.train_function
    model.encode(IMAGES), fit(model)
    assert model._graph("encode") is graph
    assert model.train_function is step


def test_warm_ups_go_by_the_steps_behind_the_weights(first_case):
    """Steps that an earlier optimizer took count as its own do, also while gradients accumulate."""
    config = first_case().get_config()
    if "kl_warmup_steps" not in config:
        pytest.skip("the family has no warm-up in its objective")
    others = {"candidates": 1, "free_bits": 0.0, "dropout": 0.0}  # add to the loss, or are noise
    config |= {name: value for name, value in others.items() if name in config}
    config |= {"kl_warmup_steps": 8, "beta": 1.0}
    model = laws.randomised(type(first_case()).from_config(config))
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=2))
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)
    labels = None if labels is None else tf.constant(labels, tf.int64)

    def kl_weight():
        seeds = tf.range(2, dtype=tf.int64)
        losses = model.losses_per_image(tf.constant(images), labels, seeds, True)
        return float((losses["loss"] - losses["reconstruction"])[0] / losses["kl"][0])

    assert kl_weight() == pytest.approx(0.0, abs=1e-2)
    model.steps_before = 4
    assert kl_weight() == pytest.approx(0.5, abs=1e-2)
    model.optimizer._iterations.assign(2)
    assert kl_weight() == pytest.approx(0.75, abs=1e-2)


@pytest.mark.slow_except("VAE", "GAN")
def test_schedules_do_not_begin_again_with_another_optimizer(first_case, tmp_path):
    """The warm-ups of the KL and of averaged weights go by the steps behind the weights."""
    model = first_case()
    model.compile(run_eagerly=True)
    part = next(n for n, v in tuning.weights(model).items() if v.trainable and "/" in n)
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)
    for steps, change in enumerate((lambda: model.freeze(part), model.unfreeze, model.compile)):
        model.run_eagerly = True
        model.train_on_batch(images, labels)
        change()
        assert model.steps_trained == int(model.step) == steps + 1
    model.compile(*[optimizer for optimizer, _ in model.optimizers.values()])
    assert model.steps_trained == 3
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        bare = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert bare.steps_trained == 3
    bare.compile(run_eagerly=True)
    bare.train_on_batch(images, labels)
    assert bare.steps_trained == 4
    assert loaded.steps_trained == 3
    with pytest.raises(ValueError, match="must be left out"):
        loaded.compile(loss="mse")
    assert loaded.steps_trained == 3


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_rates_by_variable_follow_what_trains(first_case, tmp_path):
    """Variables that `freeze` takes out of an optimizer, and gives back, keep their own factor."""
    model = first_case()
    model.compile(run_eagerly=True)
    factors = {
        id(variable): 0.5 + index
        for _, variables in model.optimizers.values()
        for index, variable in enumerate(variables)
    }

    def assert_factors():
        model.train_on_batch(laws.images_for(model, 2), laws.labels_for(model, 2))
        for optimizer, variables in model.optimizers.values():
            assert optimizer.factors == [factors[id(v)] for v in variables]

    model.compile(
        *[GroupedAdam([factors[id(v)] for v in vs]) for _, vs in model.optimizers.values()],
        run_eagerly=True,
    )
    part = next(n for n, v in tuning.weights(model).items() if v.trainable and "/" in n)
    model.freeze(part)
    assert_factors()
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").fit(
        laws.images_for(model, 2), laws.labels_for(model, 2), verbose=0
    )
    model.unfreeze()
    assert_factors()


def test_quantize_is_refused(first_case, tmp_path):
    model = first_case()
    with pytest.raises(NotImplementedError, match=r"quantize is not supported, .*half=True"):
        model.quantize("int8")


@pytest.mark.slow_except("AutoEncoder", "PixelCNN")
def test_a_quantised_layer_is_refused(first_case, tmp_path):
    """In one sentence by all that would read its kernel, or keep it without its scales."""
    model = first_case()
    model.compile(jit_compile=False)
    layer = next(each for each in model._flatten_layers() if type(each) is keras.layers.Dense)
    layer.quantize("int8")
    images, labels = laws.images_for(model, 2), laws.labels_for(model, 2)
    for call in (
        lambda: model.save_to_preset(tmp_path / "preset"),
        lambda: model.save(tmp_path / "model.keras"),
        lambda: model.save_weights(tmp_path / "model.weights.h5"),
        lambda: model.fit(images, labels, verbose=0),
        lambda: model.evaluate(images, labels, verbose=0),
        *[lambda name=name: model._graph(name) for name in model.capabilities],
    ):
        with pytest.raises(ValueError, match="a quantised layer cannot be run or saved"):
            call()
    assert not list(tmp_path.glob("**/model*"))


def test_a_quantised_dtype_is_refused(first_case):
    with pytest.raises(ValueError, match="dtype must be one of floats; received 'int8_from"):
        first_case(dtype="int8_from_float32")


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_keras_old_format_is_refused_and_leaves_nothing(name, tmp_path):
    with pytest.raises(ValueError, match=r"filepath must end in \.keras"):
        VAE(**SMALL).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_steps_may_be_a_number_of_numpy(tmp_path):
    model = AutoEncoder(**SMALL)
    model.steps_before = np.int64(100)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").steps_trained == 100
