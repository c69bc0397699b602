"""Every option of Keras' training methods works or is refused, as docs/keras-options.md says."""

import re
from pathlib import Path

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import FIRST_AND_CONDITIONAL

from tfgen import training

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keras-options.md"


@pytest.fixture(scope="session", params=FIRST_AND_CONDITIONAL)
def first_case(request):
    """Conditional models, too."""
    return request.param


class Rows(keras.utils.PyDataset):
    def __init__(self, rows: tuple):
        super().__init__()
        self.rows = rows

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(array[2 * index : 2 * index + 2] for array in self.rows)


class Subject:
    """A compiled model of a family with four images for it."""

    def __init__(self, case):
        self.model = case()
        self.images = laws.images_for(self.model, 4)
        self.labels = laws.labels_for(self.model, 4)
        self.rows = (self.images,) if self.labels is None else (self.images, self.labels)
        self.classes = np.zeros(4, np.int64) if self.labels is None else self.labels
        self.two = len(self.model.updates_per_step) > 1
        self.model.compile(run_eagerly=True)

    @property
    def batches(self):
        rows = self.rows if len(self.rows) > 1 else self.rows[0]
        return tf.data.Dataset.from_tensor_slices(rows).batch(2)

    def fit(self, *data, **options):
        data = data or self.rows
        history = self.model.fit(*data, **{"verbose": 0, "batch_size": 2} | options).history
        assert np.isfinite([v for values in history.values() for v in values]).all()
        return history


def compiled(subject, **options):
    """Compiles, and looks whether `freeze` and a saved file keep the options."""
    model = subject.model
    model.compile(**options)
    model.freeze("*")
    model.unfreeze()
    for name, value in options.items():
        assert model.get_compile_config()[name] == value, name
    subject.fit()
    model.compile(run_eagerly=True)


def refused(call, message, error=ValueError):
    with pytest.raises(error, match=message):
        call()


def watched(subject) -> str:
    return f"val_{subject.model.loss_names[0]}"


def with_callback(subject, callback):
    return subject.fit(
        validation_data=subject.rows if len(subject.rows) > 1 else subject.images,
        callbacks=[callback],
        epochs=2,
    )


def optimizers(subject):
    subject.model.compile(*["sgd" for _ in subject.model.updates_per_step], run_eagerly=True)
    subject.fit()


def one_rate(make):
    def row(subject, folder):
        if subject.two:
            refused(lambda: with_callback(subject, make(subject)), "moves one learning rate")
        else:
            with_callback(subject, make(subject))

    return row


def left_out(name, value):
    def row(subject, folder):
        refused(lambda: subject.model.compile(**{name: value}), rf"compile\({name}=.*left out")
        if name == "loss" and not subject.two:  # where Keras has it second
            refused(lambda: subject.model.compile("adam", value), rf"compile\({name}=.*left out")

    return row


def checkpoint(subject, folder):
    path = str(folder / "best.weights.h5")
    with_callback(
        subject,
        keras.callbacks.ModelCheckpoint(
            path, watched(subject), save_weights_only=True, save_best_only=True
        ),
    )
    subject.model.load_weights(path)


def backup(subject, folder):
    with_callback(subject, keras.callbacks.BackupAndRestore(folder / "backup"))


def ema(subject, folder):
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    if subject.two:
        refused(lambda: with_callback(subject, callback), "swaps the weights of one optimizer")
        return
    refused(lambda: with_callback(subject, callback), "needs an optimizer that averages weights")
    subject.model.compile(keras.optimizers.Adam(use_ema=True), run_eagerly=True)
    with_callback(subject, callback)
    subject.model.compile(run_eagerly=True)


def on_nan(subject, folder):
    callback = keras.callbacks.TerminateOnNaN()
    if "loss" in subject.model.loss_names:
        with_callback(subject, callback)
    else:
        refused(lambda: with_callback(subject, callback), "TerminateOnNaN watches 'loss'")


def orbax(subject, folder):
    kind = keras.callbacks.OrbaxCheckpoint
    callback = kind.__new__(kind)  # its constructor asks for a package
    refused(lambda: with_callback(subject, callback), "keeps the state of one optimizer")


def averaged(subject, folder):
    averages = training.AveragedWeights(0.5)
    stop = keras.callbacks.EarlyStopping(watched(subject), restore_best_weights=True)
    options = {"validation_data": subject.rows if len(subject.rows) > 1 else subject.images}
    subject.fit(callbacks=[averages, stop], epochs=2, **options)
    keeping = [averages, keras.callbacks.BackupAndRestore(folder / "backup")]
    refused(lambda: subject.fit(callbacks=keeping), "BackupAndRestore keeps no average")


def weighted(name, value):
    def row(subject, folder):
        subject.fit(subject.images, subject.classes, **{name: value})

    return row


def class_weighted(subject, folder):
    weights = {0: 0.0, 1: 0.5, 2: 1.0}
    weighted("class_weight", weights)(subject, folder)
    nothing = subject.fit(subject.images, subject.classes, class_weight=dict.fromkeys(weights, 0.0))
    assert nothing[subject.model.loss_names[0]] == [0.0]
    rows = (subject.images, subject.classes)
    for data in (tf.data.Dataset.from_tensor_slices(rows).batch(2), Rows(rows)):
        subject.fit(data, class_weight=weights, batch_size=None)
    for data in (subject.images, tf.data.Dataset.from_tensors(subject.images)):
        refused(
            lambda data=data: subject.model.fit(data, class_weight=weights),
            "class_weight needs labels",
        )


def validated(subject, folder):
    subject.fit(validation_data=subject.batches, validation_steps=1)
    seen = []
    note = keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: seen.append(batch))
    found = subject.fit(
        validation_data=subject.rows if len(subject.rows) > 1 else subject.images,
        validation_freq=2,
        validation_batch_size=1,
        epochs=2,
        callbacks=[note],
    )
    assert len(found[watched(subject)]) == 1
    assert seen == [0, 1, 2, 3]


def evaluated(subject, folder):
    model, labels = subject.model, subject.labels
    results = [
        model.evaluate(subject.images, labels, batch_size=size, verbose=0, return_dict=True)
        for size in (1, 4)
    ]
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, rel=1e-4), name
    model.evaluate(subject.images, subject.classes, sample_weight=np.ones(4), verbose=0)
    model.evaluate(subject.batches, steps=1, verbose=0)


def predicted(subject, folder):
    given = subject.images if len(subject.rows) == 1 else list(subject.rows)
    found = subject.model.predict(given, batch_size=2, verbose=0)
    np.testing.assert_allclose(found, subject.model(*subject.rows), rtol=1e-4, atol=1e-3)


def on_batch(subject, folder):
    given = subject.images if len(subject.rows) == 1 else list(subject.rows)
    found = subject.model.predict_on_batch(given)
    np.testing.assert_allclose(found, subject.model(*subject.rows), rtol=1e-4, atol=1e-3)
    for call in (subject.model.train_on_batch, subject.model.test_on_batch):
        assert set(call(*subject.rows, return_dict=True)) == set(subject.model.loss_names)


def files(subject, folder):
    subject.model.save(folder / "model.keras")
    subject.model.save_weights(folder / "model.weights.h5")
    subject.model.load_weights(folder / "model.weights.h5")
    assert type(keras.models.load_model(folder / "model.keras")) is type(subject.model)


def trainable(subject, folder):
    part = subject.model.layers[0]
    part.trainable = False
    before = [weight.numpy() for weight in part.weights]
    subject.fit()
    subject.model.save(folder / "model.keras")
    for weight, old in zip(part.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert keras.models.load_model(folder / "model.keras").frozen == subject.model.frozen
    part.trainable = True


def logged(subject, folder):
    with_callback(subject, keras.callbacks.CSVLogger(folder / "log.csv"))
    assert (folder / "log.csv").read_text().count("\n") == 3
    seen = []
    with_callback(
        subject, keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(e))
    )
    assert seen == [0, 1]


CALLBACKS = keras.callbacks
OPTIONS = {
    "compile(optimizer)": lambda s, f: optimizers(s),
    "compile(loss)": left_out("loss", "mse"),
    "compile(loss_weights)": left_out("loss_weights", [1.0]),
    "compile(metrics)": left_out("metrics", ["mae"]),
    "compile(weighted_metrics)": left_out("weighted_metrics", ["mae"]),
    "compile(run_eagerly)": lambda s, f: compiled(s, run_eagerly=True),
    "compile(steps_per_execution)": lambda s, f: compiled(
        s, steps_per_execution=2, run_eagerly=True
    ),
    "compile(jit_compile)": lambda s, f: compiled(s, jit_compile=False, run_eagerly=True),
    "compile(auto_scale_loss)": lambda s, f: compiled(s, auto_scale_loss=False, run_eagerly=True),
    "fit(array)": lambda s, f: s.fit(),
    "fit(data set)": lambda s, f: s.fit(s.batches, batch_size=None),
    "fit(generator)": lambda s, f: s.fit(
        (Rows(s.rows)[i] for i in range(2)), batch_size=None, steps_per_epoch=2
    ),
    "fit(PyDataset)": lambda s, f: s.fit(Rows(s.rows), batch_size=None),
    "fit(batch_size, epochs, verbose, shuffle, initial_epoch)": lambda s, f: s.fit(
        batch_size=3, epochs=2, shuffle=False, initial_epoch=1
    ),
    "fit(validation_split)": lambda s, f: s.fit(validation_split=0.5),
    "fit(validation_data)": lambda s, f: s.fit(validation_data=s.batches),
    "fit(validation_freq, validation_steps, validation_batch_size)": validated,
    "fit(steps_per_epoch)": lambda s, f: s.fit(steps_per_epoch=1),
    "fit(sample_weight)": weighted("sample_weight", np.ones(4)),
    "fit(class_weight)": class_weighted,
    "evaluate(batch_size, steps, sample_weight, return_dict)": evaluated,
    "predict(array)": predicted,
    "predict(data set)": lambda s, f: s.model.predict(s.batches, verbose=0),
    "train_on_batch, test_on_batch, predict_on_batch": on_batch,
    "CSVLogger, History, LambdaCallback, ProgbarLogger": logged,
    "ModelCheckpoint": checkpoint,
    "EarlyStopping": lambda s, f: with_callback(s, CALLBACKS.EarlyStopping(watched(s), patience=1)),
    "BackupAndRestore": backup,
    "SwapEMAWeights": ema,
    "TerminateOnNaN": on_nan,
    "LearningRateScheduler": one_rate(
        lambda s: CALLBACKS.LearningRateScheduler(lambda epoch: 1e-3)
    ),
    "ReduceLROnPlateau": one_rate(lambda s: CALLBACKS.ReduceLROnPlateau(watched(s))),
    "OrbaxCheckpoint": orbax,
    "tfgen.training.AveragedWeights": averaged,
    "quantize": lambda s, f: refused(
        lambda: s.model.quantize("int8"), "quantize is not supported", NotImplementedError
    ),
    "save, save_weights, load_weights": files,
    "trainable of a layer": trainable,
}
REFUSED = {
    *("compile(loss)", "compile(loss_weights)", "compile(metrics)", "compile(weighted_metrics)"),
    *("OrbaxCheckpoint", "quantize"),
}
SHOWN_ELSEWHERE = {'dtype="mixed_bfloat16", "mixed_float16"'}  # test_precision.py


def test_the_page_lists_what_is_run():
    rows = re.findall(r"^\| (`.+?) \| (works|refused)", PAGE.read_text(), re.MULTILINE)
    verdicts = {row.replace("`", ""): verdict for row, verdict in rows}
    assert set(verdicts) == set(OPTIONS) | SHOWN_ELSEWHERE
    assert {row for row, verdict in verdicts.items() if verdict == "refused"} == REFUSED


@pytest.mark.slow
def test_every_option(first_case, tmp_path):
    subject = Subject(first_case)
    for name, row in OPTIONS.items():
        folder = tmp_path / re.sub(r"\W+", "_", name)
        folder.mkdir()
        try:
            row(subject, folder)
        except Exception as error:
            raise AssertionError(f"{first_case.family}: {name}") from error
