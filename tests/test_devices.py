"""Several devices and several processes train as one device does.

Devices and processes are set up before TensorFlow runs, so each test starts its own processes.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import runs
import tensorflow as tf
from conftest import CONFIGURATIONS, FAMILIES, image_shape

import tfgen_command
from tfgen import data, devices, training
from tfgen.recipe import Recipe
from tfgen.training import run as run_module

HERE = Path(__file__).parent

# Trains recipes on 1 and on 2 logical CPU devices, and reports what the replicas saw.
MIRRORED = """
    import dataclasses, json, sys
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from tfgen import data, devices, training
    from tfgen.recipe import Recipe

    folder, recipes = sys.argv[1], json.loads(sys.argv[2])
    strategy = devices.make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    for name, values in recipes.items():
        recipe = Recipe.from_dict(values)
        training.train(recipe, f"{folder}/{name}-1", verbose=0)
        training.train(recipe, f"{folder}/{name}-2", verbose=0, strategy=strategy)

    def seen(strategy):
        # The images and the seeds of the first step of the last recipe, replica by replica.
        with strategy.scope():
            model = training.build(recipe)
            split = data.open_split(recipe.data, "train")
            batches = training.train_batches(recipe, split, False, 0)
            batches = strategy.experimental_distribute_dataset(batches)
            step = lambda images, *labels: (images, model.step_seeds(tf.shape(images)[0]))
            batch = next(iter(batches))
            batch = batch if isinstance(batch, tuple) else (batch,)  # with labels or without
            images, seeds = strategy.run(tf.function(step), batch)
            local = strategy.experimental_local_results
            return [
                [array.numpy().reshape(len(array), -1).tolist() for array in local(values)]
                for values in (images, seeds)
            ]

    with strategy.scope():
        compiled = training.build(dataclasses.replace(recipe, jit_compile=True), 1)
    assert not compiled.jit_compile
    both = [seen(each) for each in (tf.distribute.get_strategy(), strategy)]
    json.dump(both, open(f"{folder}/seen", "w"))
"""


# What any Keras user writes: build and compile under a strategy, then fit and evaluate.
COMPILED = """
    import sys
    import tempfile
    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    sys.path.insert(0, sys.argv[1])
    import laws
    from conftest import CASES, FAMILIES

    # Data stay in the memory of the machine: TensorFlow would copy them to a GPU.
    from tfgen import data
    with tf.device("CPU:1"):
        held = data.Arrays(np.zeros((3, 4, 4, 1), np.uint8), None)._tensors[0]
    assert held.device.endswith("CPU:0"), held.device

    # One for all: the sums of all strategies of a process share one numbering.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for family in FAMILIES:
        case = next(case for case in CASES if case.family == family)
        with strategy.scope():
            model = case()
            model.compile(jit_compile=False)
        images = laws.images_for(model, 4)
        before = model.get_weights()
        history = model.fit(images, batch_size=2, verbose=0).history
        assert all(np.isfinite(values).all() for values in history.values()), family
        assert any((a != b).any() for a, b in zip(before, model.get_weights())), family
        model.evaluate(images, batch_size=2, verbose=0)
        print(family, flush=True)

    model.layers[0].trainable = False  # the optimizers are made again, outside of the scope
    model.fit(images, verbose=0)

    # Made outside of the scope altogether: optimizers, adapters, and what callbacks ask.
    from tfgen import devices
    with strategy.scope():
        model = next(case for case in CASES if case.family == "VAE")()
    images = laws.images_for(model, 4)
    model.compile("sgd", jit_compile=False)
    seen = []
    ask = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(devices.num_replicas())
    )
    model.fit(images, batch_size=2, verbose=0, callbacks=[ask])
    assert model.steps_trained == 2, model.steps_trained
    assert seen == [2, 2], seen
    model.compile(jit_compile=False)
    model.fit(images, batch_size=2, verbose=0)
    model.enable_lora(2, "*")
    model.fit(images, batch_size=2, verbose=0)
    assert model.steps_trained == 6, model.steps_trained

    # A bound on gradients is for the share of a replica, and a file of two is read by one.
    with tempfile.TemporaryDirectory() as folder:
        with strategy.scope():
            model = next(case for case in CASES if case.family == "GAN")()
            adam = keras.optimizers.Adam(global_clipnorm=3.0)
            model.compile(adam, keras.optimizers.SGD(clipvalue=0.5), jit_compile=False)
        model.save(f"{folder}/two.keras")
        model = keras.models.load_model(f"{folder}/two.keras")
        (first, _), (second, _) = model.optimizers.values()
        assert (first.global_clipnorm, second.clipvalue) == (6.0, 1.0)
        model.save(f"{folder}/one.keras")
        with strategy.scope():
            model = keras.models.load_model(f"{folder}/one.keras")
        (first, _), (second, _) = model.optimizers.values()
        assert (first.global_clipnorm, second.clipvalue) == (3.0, 0.5)
        assert first.clipvalue is second.clipnorm is None

    # What cannot work is refused in one sentence.
    def refused(call, message):
        try:
            call()
        except ValueError as error:
            assert message in str(error), error
        else:
            raise AssertionError(message)

    case = next(case for case in CASES if case.family == "VAE")
    with strategy.scope():
        model = case(num_classes=3)
    refused(lambda: model.compile(jit_compile=True), "compile(jit_compile=True) must be left out")
    with strategy.scope():
        model.compile(keras.optimizers.Adam(gradient_accumulation_steps=2))
    refused(lambda: model.fit(images, [0, 1, 2, 0], verbose=0), "steps=2 must be left out")
    with strategy.scope():
        model.compile(jit_compile=False)
    rows = tf.data.Dataset.from_tensors((images, [0, 1, 2, 9]))
    shared = strategy.experimental_distribute_dataset(rows)
    refused(lambda: model.fit(shared, verbose=0), "labels must lie in [0, 2]; received")
"""


def test_a_tpu_is_that_of_the_machine_unless_another_is_named(monkeypatch):
    """TensorFlow looks for no TPU of its own machine unless it is told to."""
    resolvers, asked = tf.distribute.cluster_resolver.TPUClusterResolver, []
    monkeypatch.setattr(resolvers, "connect", staticmethod(asked.append))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: "strategy")
    monkeypatch.delenv("TPU_NAME", raising=False)
    assert devices._made.__wrapped__("tpu") == "strategy"
    monkeypatch.setenv("TPU_NAME", "tpu-of-mine")
    devices._made.__wrapped__("tpu")
    assert asked == ["local", "tpu-of-mine"]


@pytest.mark.slow
def test_compile_and_fit_under_a_strategy():
    command = [sys.executable, "-c", textwrap.dedent(COMPILED), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"after {run.stdout.split()}: {run.stderr[-3000:]}"
    assert run.stdout.split() == list(FAMILIES)


def recipe_for(family: str, name: str, data: Path) -> Recipe:
    arguments = CONFIGURATIONS[family][name]
    shape = "x".join(map(str, image_shape(arguments)))
    return Recipe(
        family=family,
        model=arguments,
        data=str(data / f"{shape}.npz"),
        batch_size=16,  # 4 steps an epoch
        epochs=2,
        learning_rate=0.01,
        warmup_steps=3,
        clip_norm=0.5,  # far below the gradients' norm, so that it always acts
        ema_momentum=0.9,
        max_shift=1,
        mirror=True,
        jit_compile=False,
        seed=3,
    )


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    shapes = {image_shape(a) for f in CONFIGURATIONS.values() for a in f.values()}
    for shape in shapes:
        np.savez(
            folder / f"{'x'.join(map(str, shape))}.npz",
            images=rng.integers(0, 256, (100, *shape), np.uint8),
            labels=np.arange(100) % 2,
        )
    return folder


def assert_equal_losses(first: Path, second: Path) -> None:
    own, expected = runs.log_of(first), runs.log_of(second)
    assert len(own) == len(expected) > 0
    for a, b in zip(own, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-5, abs=1e-5), name


@pytest.mark.slow
def test_two_devices_equal_one(first_case, data_folder, tmp_path):
    recipe = recipe_for(first_case.family, first_case.name, data_folder)
    run_mirrored({"run": recipe}, tmp_path)
    assert_equal_losses(tmp_path / "run-2", tmp_path / "run-1")
    (images, seeds), (shared_images, shared_seeds) = json.loads((tmp_path / "seen").read_text())
    assert [len(part) for part in shared_images] == [8, 8]
    in_turn = [image for part in shared_images for image in part]
    assert in_turn == images[0], "the batch is not shared out in its order"
    assert [seed for part in shared_seeds for seed in part] == seeds[0]
    assert len({seed for part in shared_seeds for (seed,) in part}) == 16, "replicas share noise"


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
def test_two_devices_equal_one_in_every_configuration(family, data_folder, tmp_path):
    recipes = {name: recipe_for(family, name, data_folder) for name in CONFIGURATIONS[family]}
    run_mirrored(recipes, tmp_path)
    for name in recipes:
        assert_equal_losses(tmp_path / f"{name}-2", tmp_path / f"{name}-1")


def run_mirrored(recipes: dict[str, Recipe], folder: Path) -> None:
    text = json.dumps({name: recipe.to_dict() for name, recipe in recipes.items()})
    command = [sys.executable, "-c", textwrap.dedent(MIRRORED), folder, text]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_each_loss_counts_by_its_weight(shape):
    """Of the number of images, as in Keras, and not of the sum of the weights."""
    losses, weight = tf.constant([1.0, 5.0, 3.0]), np.reshape([1, 0, 3], shape)
    assert float(devices.objective(losses, tf.constant(weight))) == pytest.approx(10 / 3)
    assert float(devices.objective(losses, tf.constant(0.1 * weight))) == pytest.approx(1 / 3)
    assert float(devices.objective(losses, None)) == pytest.approx(3.0)
    assert float(devices.objective(losses, tf.zeros(shape))) == 0.0


def test_added_losses_of_every_dtype_and_shape():
    added = [tf.constant(0.5, tf.float16), tf.constant([1.0, 2.0], tf.float64), tf.constant(4.0)]
    loss = devices.objective(tf.constant([1.0, 5.0]), tf.constant([0.5, 0.5]), added)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(1.5 + 7.5)


# Seeds of the images of two batches, of four and of three, on one device and on two; and the mean
# over each batch of values 0, 1, 2, ..., to which the devices give their shares, with weights of a
# half too.
UNEVEN = """
    import json
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from tfgen import AutoEncoder, devices

    def seeds(strategy):
        with strategy.scope():
            model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0)
            model.compile()
            batches = tf.data.Dataset.from_tensor_slices(tf.zeros((7, 1))).batch(4)
            batches = strategy.experimental_distribute_dataset(batches)
            step = tf.function(lambda batch: model.step_seeds(tf.shape(batch)[0]))
            local = strategy.experimental_local_results
            return [[s.numpy().tolist() for s in local(strategy.run(step, (b,)))] for b in batches]

    def means(strategy, weight):
        batches = tf.data.Dataset.range(7).map(lambda i: tf.cast(i, tf.float32)).batch(4)
        batches = strategy.experimental_distribute_dataset(batches)
        weights = lambda values: None if weight is None else weight * tf.ones_like(values)
        share = tf.function(lambda values: devices.objective(values, weights(values), [values[0]]))
        shares = [strategy.run(share, (batch,)) for batch in batches]
        return [float(strategy.reduce("SUM", found, axis=None)) for found in shares]

    mirrored = devices.make_strategy("mirrored")
    single = tf.distribute.get_strategy()
    found = [means(strategy, weight) for weight in (None, 0.5) for strategy in (single, mirrored)]
    print(json.dumps([seeds(single), seeds(mirrored), *found]))
"""


@pytest.mark.slow
def test_an_uneven_batch_has_one_seed_for_each_image():
    command = [sys.executable, "-c", textwrap.dedent(UNEVEN)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    one, two, mean, of_two, half, half_of_two = json.loads(run.stdout)
    # The loss that a device adds counts by its share of the devices: (0 + 2) / 2, (4 + 6) / 2.
    assert (mean, of_two) == ([1.5 + 0.0, 5.0 + 4.0], [1.5 + 1.0, 5.0 + 5.0])
    assert (half, half_of_two) == ([0.75 + 0.0, 2.5 + 4.0], [0.75 + 1.0, 2.5 + 5.0])
    assert [[len(part) for part in batch] for batch in two] == [[2, 2], [2, 1]]
    assert [[s for part in batch for s in part] for batch in two] == [batch[0] for batch in one]
    assert all(len(set(batch[0])) == len(batch[0]) for batch in one)


# Several processes


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def workers(recipe: Path | list[Path], outs: list[Path], *options: str) -> list[subprocess.Popen]:
    """Starts `tfgen train` once for each folder, as one cluster on loopback."""
    recipes = recipe if isinstance(recipe, list) else [recipe] * len(outs)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(outs))]
    started = []
    for index, out in enumerate(outs):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        started.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tfgen_command", "train", recipes[index], "--out", out),
                    *("--strategy", "multi-worker", "--verbose", "0"),
                    *("--checkpoint-seconds", "0", *options),
                ],
                env={**os.environ, "TF_CONFIG": config},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    return started


@pytest.mark.slow
def test_a_worker_is_killed_and_all_go_on(data_folder, tmp_path):
    """Two processes equal one device; the second one does not write, not even into its own folder.

    The first one notices within seconds that the second one is gone, and ends too.
    """
    recipe = recipe_for("VAE", "mixture", data_folder)
    recipe = Recipe.from_dict({**recipe.to_dict(), "epochs": 40, "warmup_steps": 20})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    outs = [tmp_path / "run", tmp_path / "second"]

    running = workers(tmp_path / "recipe.json", outs)
    try:
        deadline = time.monotonic() + 500
        while not list(outs[0].glob("checkpoint-*")) and time.monotonic() < deadline:
            assert all(process.poll() is None for process in running)
            time.sleep(0.05)
        os.kill(running[1].pid, signal.SIGKILL)
        _, error = running[0].communicate(timeout=500)
        assert running[0].returncode == os.EX_TEMPFAIL, error[-2000:]
        assert "one of the 2 workers has stopped" in error
        assert "Traceback" not in error
    finally:
        for process in running:
            process.kill()
            process.communicate()
    done = len(runs.log_of(outs[0])) if (outs[0] / "log.csv").exists() else 0
    assert done < 40, "the kill came too late"

    running = workers(tmp_path / "recipe.json", outs, "--resume")
    errors = [process.communicate(timeout=900)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert not outs[1].exists(), "only the chief writes"

    single = [sys.executable, "-m", "tfgen_command", "train", tmp_path / "recipe.json"]
    subprocess.run(
        [*single, "--out", tmp_path / "one", "--verbose", "0"], check=True, capture_output=True
    )
    assert_equal_losses(outs[0], tmp_path / "one")


# What is refused


@pytest.mark.parametrize(
    "config",
    [
        None,
        "",
        "{",
        "[]",
        '{"cluster": {}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", '
        '"index": 0}}',
    ],
)
def test_tf_config_that_does_not_fit(config, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=r"needs the environment variable TF_CONFIG.*received"):
        devices.make_strategy("multi-worker")


@pytest.mark.parametrize("own", [True, False])
def test_an_error_of_its_own_is_not_that_of_a_lost_worker(monkeypatch, own):
    monkeypatch.setattr(devices, "num_workers", lambda: 2)
    kind = tf.errors.ResourceExhaustedError if own else tf.errors.UnavailableError
    with pytest.raises(kind if own else ConnectionError), run_module._explaining_lost_workers():
        raise kind(None, None, "no memory")


@pytest.mark.slow
def test_two_processes_validate_on_one_shard(tmp_path):
    """TensorFlow would share files out, of which there are not enough."""
    shards = data.prepare("digits", tmp_path / "shards", verbose=0)
    recipe = dataclasses.replace(runs.SIMPLE, data=str(shards), epochs=1)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    outs = [tmp_path / "run", tmp_path / "second"]
    running = workers(tmp_path / "recipe.json", outs)
    errors = [process.communicate(timeout=500)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    training.train(recipe, tmp_path / "one", verbose=0)
    assert_equal_losses(outs[0], tmp_path / "one")


@pytest.mark.slow
def test_two_processes_with_other_images_do_not_train_together(tmp_path):
    """The one that differs says so; the other one says that it is alone."""
    rng, recipes = np.random.default_rng(0), []
    for index in range(2):
        images = rng.integers(0, 256, (200, 8, 8, 1), np.uint8)
        np.savez(tmp_path / f"{index}.npz", images=images)
        (tmp_path / f"{index}.json").write_text(
            dataclasses.replace(runs.SIMPLE, data=str(tmp_path / f"{index}.npz")).to_json()
        )
        recipes.append(tmp_path / f"{index}.json")
    running = workers(recipes, [tmp_path / "run", tmp_path / "second"])
    errors = [process.communicate(timeout=500)[1] for process in running]
    assert [process.returncode for process in running] == [os.EX_TEMPFAIL, 2], errors
    assert "now has sha256" in errors[1]
    assert "Traceback" not in errors[0]
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_worker_is_asked_to_stop_in_an_epoch_of_few_steps(data_folder, tmp_path):
    recipe = dataclasses.replace(
        recipe_for("VAE", next(iter(CONFIGURATIONS["VAE"])), data_folder), epochs=4000
    )
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    running = workers(tmp_path / "recipe.json", [tmp_path / "run", tmp_path / "second"])
    for _ in range(3000):
        if list((tmp_path / "run").glob("checkpoint-*")):
            break
        time.sleep(0.1)
    running[1].terminate()
    errors = [process.communicate(timeout=200)[1] for process in running]
    assert running[1].returncode == 143, errors
    assert running[0].returncode == os.EX_TEMPFAIL, errors


def test_strategies_by_name(monkeypatch, capsys):
    with pytest.raises(ValueError, match="strategy must be one of none, mirrored"):
        devices.make_strategy("mirored")
    assert devices.make_strategy("none").num_replicas_in_sync == 1
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ValueError, match="'none' must be asked for outside"),
    ):
        devices.make_strategy("none")
    assert devices.make_strategy("none") is tf.distribute.get_strategy()
    arguments = ["tfgen", "train", "vae_mnist", "--out", "never", "--strategy", "two"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        tfgen_command.main()
    assert stop.value.code == 2
    assert "'--strategy': 'two' is not one of 'none', 'mirrored'" in capsys.readouterr().err
    assert not Path("never").exists()


def test_one_process_asks_nobody():
    assert devices.any_process(True) is True
    assert devices.any_process(False) is False
    arrays = [np.arange(3)]
    assert devices.broadcast(arrays) is arrays
    assert devices.is_chief()
