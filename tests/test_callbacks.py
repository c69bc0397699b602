"""Callbacks: those that cannot work are refused before training, and averages fit the others."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgen import GAN, AutoEncoder, devices, training
from tfgen.models.callback_checks import check_callbacks
from tfgen.models.classifier import Classifier

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
SGD = keras.optimizers.SGD


def eager(family=AutoEncoder, optimizer="sgd", **options):
    model = family(**SMALL)
    optimizers = [optimizer] if family is AutoEncoder else []
    model.compile(*optimizers, run_eagerly=True, **options)
    return model


def fit(model, *callbacks, **options):
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "validation_data": IMAGES} | options
    return model.fit(IMAGES, callbacks=list(callbacks), **options).history


def assert_refused(model, message, *callbacks):
    """By `fit`, which leaves the model as it was."""
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, *callbacks)
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, old)


# What is monitored

WATCHING = {
    "EarlyStopping": lambda path, loss: keras.callbacks.EarlyStopping(loss),
    "ModelCheckpoint": lambda path, loss: keras.callbacks.ModelCheckpoint(
        path, loss, save_best_only=True
    ),
    "ReduceLROnPlateau": lambda path, loss: keras.callbacks.ReduceLROnPlateau(loss),
}


def assert_every_loss_has_a_direction(model):
    for kind, make in WATCHING.items():
        for name in model.loss_names:
            for callback in (make("a.keras", name), make("a.keras", f"val_{name}")):
                if kind == "ReduceLROnPlateau" and len(model.updates_per_step) > 1:
                    with pytest.raises(ValueError, match="moves one learning rate"):
                        check_callbacks(model, [callback])
                    continue
                check_callbacks(model, [callback])
                callback.set_model(model)
                callback._set_monitor_op()  # as Keras does at the end of the first epoch
                rises = name.endswith("accuracy")
                assert bool(callback._is_improvement(2.0, 1.0)) is rises, (kind, name)
                assert bool(callback._is_improvement(1.0, 2.0)) is not rises, (kind, name)


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_every_loss_can_be_monitored_without_a_mode(first_case):
    assert_every_loss_has_a_direction(first_case())


def test_an_evaluator_too_can_be_monitored_without_a_mode():
    assert_every_loss_has_a_direction(Classifier((8, 8, 1), 3, filters=(4,), feature_units=5))


def test_a_gan_stops_early_and_keeps_its_best_weights(tmp_path):
    path = tmp_path / "best.keras"
    log = fit(
        eager(GAN),
        keras.callbacks.EarlyStopping("val_generator_loss", min_delta=1e9),
        keras.callbacks.ModelCheckpoint(path, "val_real_accuracy", save_best_only=True),
        epochs=4,
    )
    assert len(log["val_generator_loss"]) == 2  # the second one is no better by so much
    assert type(keras.models.load_model(path)) is GAN


@pytest.mark.parametrize("mode", ["auto", "min"])
@pytest.mark.parametrize("kind", WATCHING)
def test_a_loss_that_nothing_reports_is_refused(kind, mode):
    callback = WATCHING[kind]("a.keras", "val_los")
    callback.mode = mode
    assert_refused(eager(), "monitors 'val_los'; AutoEncoder reports loss, squared_error", callback)


def test_a_gan_reports_no_loss():
    model = eager(GAN)
    best = keras.callbacks.ModelCheckpoint("a.keras", save_best_only=True)
    for callback in (keras.callbacks.EarlyStopping(), best):
        assert_refused(model, "monitors 'val_loss'; GAN reports discriminator_loss", callback)
    check_callbacks(model, keras.callbacks.ModelCheckpoint("a.keras"))  # which stores every epoch


class Measures(keras.callbacks.Callback):
    """Adds a figure of its own to the logs, which gets no lower."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_distance"] = 1.0


def test_what_another_callback_reports_can_be_monitored():
    stop = keras.callbacks.EarlyStopping("val_distance", mode="min")
    assert len(fit(eager(), Measures(), stop, epochs=4)["val_distance"]) == 2
    assert_refused(eager(), "monitors 'val_distance'", stop, Measures())  # too late for it


# Optimizers

RATES = {
    "number": lambda: SGD(0.01),
    "schedule": lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)),
    "function": lambda: SGD(lambda: 0.01),
    "averaging": lambda: SGD(0.01, use_ema=True),
}
MOVING = {
    "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3),
    "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau(
        "loss", patience=1, min_delta=1e9
    ),
    "SwapEMAWeights": lambda: keras.callbacks.SwapEMAWeights(),
}


@pytest.mark.slow_except(
    "SwapEMAWeights-*", "LearningRateScheduler-schedule", "ReduceLROnPlateau-number"
)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", MOVING)
def test_a_callback_fits_the_optimizer_or_is_refused(kind, rate):
    model = eager(optimizer=RATES[rate]())
    if kind == "SwapEMAWeights" and rate != "averaging":
        assert_refused(model, "needs an optimizer that averages weights", MOVING[kind]())
    elif kind != "SwapEMAWeights" and rate in ("schedule", "function"):
        assert_refused(model, "needs a learning rate that is a number", MOVING[kind]())
    else:
        assert len(fit(model, MOVING[kind]())["loss"]) == 2


@pytest.mark.parametrize("family", [AutoEncoder, GAN])
def test_a_checkpoint_of_one_optimizer_under_unique_paths_is_refused(family):
    kind = keras.callbacks.OrbaxCheckpoint
    callback = kind.__new__(kind)  # its constructor asks for a package
    assert_refused(eager(family), "OrbaxCheckpoint keeps the state of one optimizer", callback)


# Averaged weights

STORING = {
    "EarlyStopping": lambda folder: keras.callbacks.EarlyStopping(
        patience=5, restore_best_weights=True
    ),
    "ModelCheckpoint": lambda folder: keras.callbacks.ModelCheckpoint(
        folder / "best.weights.h5", save_best_only=True, save_weights_only=True
    ),
    "BackupAndRestore": lambda folder: keras.callbacks.BackupAndRestore(folder),
    "SwapEMAWeights": lambda folder: keras.callbacks.SwapEMAWeights(),
    "AveragedWeights": lambda folder: training.AveragedWeights(0.5),
}


@pytest.mark.slow_except(
    "EarlyStopping-True", "ModelCheckpoint-False", "BackupAndRestore-False", "*Weights-True"
)
@pytest.mark.parametrize("in_front", [True, False])
@pytest.mark.parametrize("kind", STORING)
def test_what_is_stored_next_to_averages_was_measured(kind, in_front, tmp_path):
    """Or fit is refused, as it is for what stores in front of the averages.

    The last epoch is made the worst, so that another one is the best.
    """
    averaging = kind == "SwapEMAWeights"
    model = eager(optimizer=keras.optimizers.Adam(0.01, use_ema=averaging))
    callbacks = [training.AveragedWeights(0.5), STORING[kind](tmp_path)]
    callbacks = callbacks if in_front else callbacks[::-1]
    if kind not in ("EarlyStopping", "ModelCheckpoint"):
        assert_refused(model, "callbacks: .*average", *callbacks)
        return
    if not in_front:
        assert_refused(model, f"{kind} in front of .* Put AveragedWeights first", *callbacks)
        return

    def spoil(batch, logs=None):
        if int(model.optimizer.iterations) > 4:
            for variable in model.trainable_variables:
                variable.assign_add(np.ones(variable.shape))

    spoiling = keras.callbacks.LambdaCallback(on_train_batch_end=spoil)
    losses = fit(model, spoiling, *callbacks, epochs=3)["val_loss"]
    assert np.argmin(losses) < 2
    if kind == "ModelCheckpoint":
        model.load_weights(tmp_path / "best.weights.h5")
    found = model.evaluate(IMAGES, batch_size=4, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(min(losses), rel=1e-5)


def test_averages_next_to_an_optimizer_s_own_are_refused():
    model = eager(optimizer=SGD(0.01, use_ema=True))
    assert_refused(model, "AveragedWeights must be left out", training.AveragedWeights(0.5))


@pytest.mark.slow_except("False")
@pytest.mark.parametrize("in_front", [True, False])
def test_averages_do_not_leak_into_training(in_front):
    """The weights move as they do without, whatever is evaluated at whatever time."""
    found = []
    for averaged in (False, True):
        keras.utils.set_random_seed(0)
        model = eager(optimizer=keras.optimizers.Adam(0.01))
        averages, seen = training.AveragedWeights(0.5), []

        def note(batch, logs=None, model=model, seen=seen):
            seen.append([variable.numpy() for variable in model.trainable_variables])

        def measure(batch, logs=None, model=model, averages=averages):
            model.evaluate(IMAGES, verbose=0, callbacks=[averages])

        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=note)]
        if averaged:
            measuring = keras.callbacks.LambdaCallback(on_train_batch_end=measure)
            callbacks += [averages, measuring] if in_front else [measuring, averages]
        fit(model, *callbacks, validation_freq=2, epochs=3, shuffle=False)
        found.append(seen)
    for own, expected in zip(*map(tf.nest.flatten, found), strict=True):
        np.testing.assert_array_equal(own, expected)


def test_a_checkpoint_keeps_weights_and_averages_apart(tmp_path):
    model, averages = eager(optimizer="adam"), training.AveragedWeights(0.5)
    seen = []

    def note(batch, logs=None):
        seen[:] = [variable.numpy() for variable in model.trainable_variables]

    noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    fit(model, noting, averages, training.Checkpoint(tmp_path, averages))
    resumed, again = eager(optimizer="adam"), training.AveragedWeights(0.5)
    stored = training.CheckpointFiles(tmp_path).newest()
    checkpoint = training.Checkpoint(tmp_path, again)
    assert checkpoint.restore(resumed, stored)
    for own, expected in zip(resumed.trainable_variables, seen, strict=True):
        np.testing.assert_array_equal(own, expected)
    for own, expected in zip(again.averages, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(own, expected)
    for own, expected in zip(resumed.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(own, expected)
    assert checkpoint.state == stored.state
    fit(resumed, again, checkpoint, epochs=1)  # which is newer than all of the run before
    newest = training.CheckpointFiles(tmp_path).newest().state
    assert newest.step == stored.state.step + 2
    assert newest.best_loss <= stored.state.best_loss


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_checkpoint_counts_steps_that_run_together(tmp_path, size):
    """Keras calls `on_train_batch_end` once for so many, at an epoch's end for fewer."""
    model = AutoEncoder(**SMALL)
    model.compile("sgd", steps_per_execution=size, jit_compile=False)
    checkpoint, seen = training.Checkpoint(tmp_path, every=0.0), []
    saving = checkpoint.files.write
    checkpoint.files.write = lambda arrays, state: seen.append(state.step) or saving(arrays, state)
    fit(model, checkpoint, batch_size=1)  # twice eight steps
    assert seen[-1] == training.CheckpointFiles(tmp_path).newest().state.step == 16
    inside = list(range(size, 8, size))
    assert seen == [*inside, 8, *(8 + step for step in inside), 16]


@pytest.mark.slow_except("encoder-1", "decoder-2")
@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_averages_go_on_where_a_callback_freezes_a_part(part, steps_per_execution):
    model, averages, seen = AutoEncoder(**SMALL), training.AveragedWeights(0.5), []

    def freeze(epoch, logs=None):
        seen.append([average.numpy() for average in averages.averages])
        if epoch == 1:
            model.freeze(part)

    model.compile("sgd", jit_compile=False, steps_per_execution=steps_per_execution)
    fit(model, averages, keras.callbacks.LambdaCallback(on_epoch_begin=freeze), epochs=3)
    for before, after in itertools.pairwise(seen):
        assert any((own != old).any() for own, old in zip(after, before, strict=True))
    for own, average in zip(averages._weights, averages._left, strict=True):
        np.testing.assert_array_equal(own, average)


def test_averages_take_in_what_a_callback_lets_train():
    model, averages = AutoEncoder(**SMALL), training.AveragedWeights(0.9)
    model.freeze("encoder")
    model.compile("sgd", jit_compile=False)
    frozen = [variable for variable in model.variables if not variable.trainable]
    raw = []

    def unfreeze(epoch, logs=None):
        if epoch == 1:
            model.unfreeze("encoder")

    def note(batch, logs=None):
        raw[:] = [variable.numpy() for variable in frozen]

    events = keras.callbacks.LambdaCallback(on_epoch_begin=unfreeze, on_train_batch_end=note)
    fit(model, averages, events, epochs=3)
    assert [*map(id, averages._weights)] == [*map(id, model.trainable_variables)]
    assert any((own.numpy() != last).any() for own, last in zip(frozen, raw, strict=True))
    first = averages.averages[0]
    fit(model, averages)
    assert averages.averages[0] is first  # it goes on


@pytest.mark.parametrize("first", [0, 1])
def test_a_checkpoint_must_know_the_average_beside_it(tmp_path, first):
    """At an epoch's end it would take the average for the weights."""
    callbacks = [training.AveragedWeights(0.5), training.Checkpoint(tmp_path)]
    assert_refused(eager(), "Checkpoint must be given the Averaged", *callbacks[:: 1 - 2 * first])


def test_averages_of_a_fit_that_was_cut_are_not_those_of_another_model():
    averages = training.AveragedWeights(0.5)

    def stop(batch, logs=None):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(eager(), averages, keras.callbacks.LambdaCallback(on_train_batch_end=stop))
    model = AutoEncoder(**SMALL | {"dense_units": 5})
    model.compile("sgd", run_eagerly=True)
    fit(model, averages)
    for own, average in zip(model.trainable_variables, averages.averages, strict=True):
        assert own.shape == average.shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_averages_of_every_dtype_move(dtype):
    average, weight = tf.Variable([1.0, 2.0], dtype=dtype), tf.constant([3.0, 2.0], dtype)
    devices.move_averages([average], [weight], tf.constant(1), 0.8)  # keeps (1 + 1) / (10 + 1)
    assert average.dtype == dtype
    np.testing.assert_allclose(tf.cast(average, tf.float32), [1 + 2 * 9 / 11, 2.0], rtol=1e-2)


@pytest.mark.slow_except("float64")
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
def test_averages_of_a_model_of_every_dtype(dtype):
    model = AutoEncoder(**SMALL, dtype=dtype)
    model.compile("sgd")
    averages = training.AveragedWeights(0.8)
    averages.set_model(model)
    averages.on_train_begin()
    before = [variable.numpy() for variable in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign_add(np.ones(variable.shape))
    model.optimizer.iterations.assign(1)
    averages.on_train_batch_end(0)
    for own, old in zip(averages.averages, before, strict=True):
        assert own.numpy().dtype == old.dtype
        np.testing.assert_allclose(own, old + 9 / 11, rtol=1e-5)


@pytest.mark.slow_except("3")
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_averages_move_as_far_in_executions_of_several_steps(steps):
    """Weights that stand still, and averages that begin far from them; 3 does not divide 8."""
    model = eager(optimizer=SGD(0.0), steps_per_execution=steps)
    averages = training.AveragedWeights(0.4)
    averages.start(model)
    held = [variable.numpy() for variable in model.trainable_variables]
    for average in averages.averages:
        average.assign_add(1000.0 * tf.ones_like(average))
    fit(model, averages, batch_size=1, epochs=1, validation_data=None)
    left = 1000.0 * np.prod([min(0.4, (1 + n) / (10 + n)) for n in range(1, 9)])
    for own, old in zip(model.trainable_variables, held, strict=True):
        np.testing.assert_allclose(own - old, np.full(old.shape, left), rtol=1e-3)


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_weights_are_kept_every_whole_number_of_epochs(tmp_path, every):
    """As is found before an epoch has been trained."""
    with pytest.raises(ValueError, match="every must be"):
        training.KeepWeights(tmp_path, every)
    assert training.KeepWeights(str(tmp_path), 2).averages is None
    images = np.zeros((1, 8, 8, 1), np.uint8)
    assert training.DrawSamples(tmp_path, images, board=str(tmp_path)).averages is None


@pytest.mark.parametrize("momentum", [0, np.float64(0.5)])
def test_a_momentum_may_be_any_kind_of_number(momentum):
    """In a graph TensorFlow takes the dtype of the first number that it meets."""
    average = tf.Variable([1.0])

    @tf.function
    def move(step):
        devices.move_averages([average], [tf.constant([3.0])], step, momentum)

    move(tf.constant(1))  # keeps min(momentum, (1 + 1) / (10 + 1))
    np.testing.assert_allclose(average, [3.0 - 2.0 * min(momentum, 2 / 11)], rtol=1e-5)
