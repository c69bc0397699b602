"""Fine-tuning: weights by name, freezing, adapters, rates by part, weights that do not fit."""

import dataclasses
import inspect
import warnings

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import CONFIGURATIONS, FAMILIES, FIRST_AND_CONDITIONAL

from tfgen import AutoEncoder, HierarchicalVAE, families, optimizers, training, tuning, zoo
from tfgen.recipe import Recipe

SMALL = {"image_shape": (8, 8, 1), "latent_dim": 2, "filters": (4,), "dense_units": 8}
LADDER = next(iter(CONFIGURATIONS["HierarchicalVAE"].values()))


@pytest.fixture(scope="session", params=FIRST_AND_CONDITIONAL)
def first_case(request):
    """Conditional models, too."""
    return request.param


def a_part(model) -> str:
    """The network that stands first in the model, e.g. "encoder"."""
    names = [name for name, v in tuning.weights(model).items() if v.trainable and "/" in name]
    return names[0].split("/")[0]


def train_a_step(model) -> None:
    model.train_on_batch(laws.images_for(model, 4), laws.labels_for(model, 4))


# Names


def test_names_are_those_of_the_configuration(case):
    """Whatever was built before, and each weight has one."""
    first, second = case(), case()
    assert list(tuning.weights(first)) == list(tuning.weights(second))
    found = {id(v) for v in tuning.weights(first).values()}
    assert found == {id(v) for v in first.variables}


def test_patterns():
    names = ["encoder/a/kernel", "encoder/b/bias", "decoder/a/kernel", "scale"]
    assert tuning.matching(names, ["encoder"]) == names[:2]
    assert tuning.matching(names, ["*/a"]) == [names[0], names[2]]
    assert tuning.matching(names, ["scale", "encoder/b/bias"]) == [names[3], names[1]]
    assert tuning.matching(names, []) == []
    for wrong in ("enc", "encoder/", "kernel", ""):
        with pytest.raises(ValueError, match=r"matches nothing.*decoder, encoder, scale"):
            tuning.matching(names, [wrong])


# Freezing


@pytest.mark.slow_except("VAE", "GAN")
def test_frozen_weights_stay_and_the_others_move(first_case):
    model = laws.randomised(first_case())
    model.compile(run_eagerly=True)
    part = a_part(model)
    names = model.freeze(part)
    assert names
    held = tuning.weights(model)
    frozen = {id(held[name]) for name in names}
    before = {name: v.numpy() for name, v in held.items()}
    train_a_step(model)
    for name, variable in held.items():
        if id(variable) in frozen:
            np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)
    assert any((v.numpy() != before[n]).any() for n, v in held.items())
    model.unfreeze()
    train_a_step(model)
    assert any((held[name].numpy() != before[name]).any() for name in names)
    assert "frozen" not in model.get_config()


def test_training_of_nothing_is_told_and_counted():
    """A ladder's encoder holds its top-down part, so freezing it freezes all."""
    model = HierarchicalVAE(**LADDER)
    assert model.freeze("encoder")
    assert model.trainable_variables == []
    model.compile(jit_compile=False)
    images = laws.images_for(model, 8)
    with pytest.warns(UserWarning, match="no weight of the model trains"):
        model.fit(images, epochs=2, batch_size=4, verbose=0)
    assert model.steps_trained == 4


@pytest.mark.slow_except("VAE")
def test_what_is_frozen_is_saved(first_case, tmp_path):
    model = first_case()
    model.compile()
    names = model.freeze(a_part(model))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    held = tuning.weights(loaded)
    assert not any(held[name].trainable for name in names)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert loaded.get_config() == model.get_config()
    model.save_to_preset(tmp_path / "preset")
    assert zoo.load(tmp_path / "preset").get_config() == model.get_config()


def test_what_is_frozen_may_be_missing_in_another_network(tmp_path):
    model = AutoEncoder(**{**SMALL, "filters": (4, 8)})
    names = model.freeze("encoder")
    model.save_to_preset(tmp_path / "preset")
    with pytest.warns(UserWarning, match="keep initial values"):
        smaller = zoo.load(tmp_path / "preset", load_weights="partial", filters=(4,))
    assert smaller.frozen == sorted(set(names) & set(tuning.weights(smaller)))


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_what_is_frozen_as_in_keras_is_saved(first_case, tmp_path):
    """`trainable` of a layer freezes as `freeze` does: in both kinds of files, until `unfreeze`."""
    model = laws.randomised(first_case())
    trainable = {name for name, v in tuning.weights(model).items() if v.trainable}
    model.layers[0].trainable = False
    model.compile(run_eagerly=True)
    train_a_step(model)
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras warns where it drops an optimizer's slots
        saved = keras.models.load_model(tmp_path / "model.keras")
    for loaded in (saved, zoo.load(tmp_path / "preset")):
        held = tuning.weights(loaded)
        assert {name for name, v in held.items() if not v.trainable and name in trainable} == set(
            model.frozen
        )
        train_a_step(loaded)
    assert len(saved.optimizer.variables) == len(model.optimizer.variables)
    model.unfreeze()
    before = [weight.numpy() for weight in model.layers[0].weights]
    train_a_step(model)
    after = [weight.numpy() for weight in model.layers[0].weights]
    assert any((a != b).any() for a, b in zip(after, before, strict=True))
    assert {name for name, v in tuning.weights(model).items() if v.trainable} == trainable


def test_a_weight_that_never_trained_is_not_thawed(first_case):
    model = first_case()
    trainable = {name for name, v in tuning.weights(model).items() if v.trainable}
    model.freeze("*")
    model.unfreeze("*")
    assert {name for name, v in tuning.weights(model).items() if v.trainable} == trainable


@pytest.mark.parametrize(
    "changed", [{"prior": "vamp", "prior_components": 3}, {"pixel_distribution": "gaussian"}]
)
def test_weights_of_the_model_itself_are_frozen_and_unfrozen_in_a_file(changed, tmp_path):
    model = families.find("VAE")(**SMALL | changed)
    trainable = [name for name, v in tuning.weights(model).items() if v.trainable]
    model.trainable = False
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert loaded.frozen == model.frozen
    loaded.unfreeze()
    assert [name for name, v in tuning.weights(loaded).items() if v.trainable] == trainable


# Adapters


@pytest.mark.slow_except("VAE")
def test_lora_trains_the_adapters_alone_and_is_folded_in(first_case, tmp_path):
    model = laws.randomised(first_case())
    model.compile(run_eagerly=True)
    part = next((p for p in ("decoder", "generator") if hasattr(model, p)), "*")
    before = tuning.values(model)
    outputs = model.get_config()
    layers = model.enable_lora(2, part)
    assert layers
    for name, value in tuning.values(model).items():
        np.testing.assert_allclose(value, before[name], atol=1e-6, err_msg=name)  # starts at 0
    train_a_step(model)
    after = tuning.values(model)
    changed = [
        name for name in layers if (after[f"{name}/kernel"] != before[f"{name}/kernel"]).any()
    ]
    assert changed, "no adapter moved"
    for name, variable in tuning.weights(model).items():
        if name.startswith("averaged_"):
            continue  # which goes on moving towards what it averages
        if name.rsplit("/", 1)[0] in layers and name.endswith("/kernel"):
            np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)
    model.save_to_preset(tmp_path / "preset")
    loaded = zoo.load(tmp_path / "preset")
    assert loaded.get_config() == outputs
    for name, value in tuning.values(loaded).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_adapters_train_after_weights_were_loaded(first_case, tmp_path):
    """Keras sets both halves of an adapter to 0, from where no gradient leads away."""
    model = first_case()
    layers = model.enable_lora(2, "*")
    model.save_weights(tmp_path / "a.weights.h5")
    model.load_weights(tmp_path / "a.weights.h5")
    model.compile(*[keras.optimizers.SGD(0.1) for _ in model.updates_per_step], run_eagerly=True)
    before = tuning.values(model)
    train_a_step(model)
    after = tuning.values(model)
    kernels = [f"{name}/{kind}" for name in layers for kind in ("kernel", "embeddings")]
    moved = [name for name in kernels if name in after and (after[name] != before[name]).any()]
    assert len(moved) > len(layers) / 2, moved


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_adapters_are_folded_into_whole_kernels(dtype):
    """Not into what the layer computes in, of which a kernel has but the rounding."""
    model = laws.randomised(AutoEncoder(**SMALL, dtype=dtype))
    before = tuning.values(model)
    assert model.enable_lora(2, "*")  # whose second half is 0
    for name, value in tuning.values(model).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.slow_except("VAE", "GAN")
def test_frozen_adapters_are_frozen_kernels_in_a_file(first_case, tmp_path):
    model = laws.randomised(first_case())
    model.compile(run_eagerly=True)
    part = next((p for p in ("decoder", "generator") if hasattr(model, p)), "*")
    layers = model.enable_lora(2, part)
    model.freeze(part)
    model.save_to_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    for loaded in (
        zoo.load(tmp_path / "preset"),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        held = tuning.weights(loaded)
        assert not any(held[name].trainable for name in tuning.matching(held, [part]))
        own = [layer for layer in layers if not layer.startswith("averaged_")]  # never trains
        assert {f"{layer}/kernel" for layer in own} <= set(loaded.frozen)
        assert not any(name.startswith("averaged_") for name in loaded.frozen)
        assert not any(name.split("/")[-1] in tuning.LORA_WEIGHTS for name in loaded.frozen)


@pytest.mark.slow_except("VAE", "GAN")
def test_rates_of_adapters_are_those_of_the_kernels_in_a_file(first_case, tmp_path):
    model = laws.randomised(first_case())
    part = next((p for p in ("decoder", "generator") if hasattr(model, p)), "*")
    layers = model.enable_lora(2, part)
    model.compile()

    def scale(name: str) -> float:
        return 0.5 if name.split("/")[-1] in tuning.LORA_WEIGHTS else 2.0

    names = {id(weight): name for name, weight in tuning.weights(model).items()}
    grouped = [
        optimizers.GroupedAdam([scale(names[id(v)]) for v in variables])
        for _, variables in model.optimizers.values()
    ]
    model.compile(*grouped, run_eagerly=True)
    train_a_step(model)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")  # its slots
        loaded = keras.models.load_model(tmp_path / "model.keras")
    names = {id(weight): name for name, weight in tuning.weights(loaded).items()}
    kernels = {f"{layer}/kernel" for layer in layers}
    for optimizer, variables in loaded.optimizers.values():
        own = [names[id(variable)] for variable in variables]
        assert optimizer.factors == [0.5 if name in kernels else 2.0 for name in own]
    assert loaded.steps_trained == model.steps_trained == 1
    train_a_step(loaded)


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_steps_of_adapters_are_counted_once(optimizer, tmp_path):
    """Keras loads an optimizer that has no slots, and passes over one whose slots do not fit."""
    model = AutoEncoder(**SMALL)
    model.compile(optimizer(0.1), run_eagerly=True)
    model.enable_lora(2, "decoder")
    train_a_step(model)
    model.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").steps_trained == 1


class WithExtra(AutoEncoder):
    """A user's own layer on top of a family."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = keras.layers.Dense(3, name="extra")
        self.extra.build((None, 2))


def test_a_layer_of_a_subclass_is_frozen_in_a_file(tmp_path):
    model = WithExtra(**SMALL)
    model.compile()
    model.extra.trainable = False
    assert model.frozen == ["extra/bias", "extra/kernel"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"WithExtra": WithExtra}
    )
    assert loaded.frozen == model.frozen
    assert not loaded.extra.trainable_variables
    loaded.unfreeze("extra")
    assert len(loaded.extra.trainable_variables) == 2


def test_lora_refuses(first_case):
    model = first_case()
    for rank in (0, 1.5, True):
        with pytest.raises(ValueError, match="rank must be"):
            model.enable_lora(rank, "*")
    with pytest.raises(ValueError, match="matches nothing"):
        model.enable_lora(2, "nothing")
    # Weights that there are, of layers with adapters or without.
    for name in list(tuning.weights(model))[:3]:
        with pytest.raises(ValueError, match="patterns must name layers that offer low-rank"):
            model.enable_lora(2, name)


# Rates


def test_rates_by_variable():
    variables = [keras.Variable(np.ones(3, np.float32)) for _ in range(3)]
    plain = [keras.Variable(np.ones(3, np.float32)) for _ in range(3)]
    grouped = optimizers.GroupedAdam([1.0, 0.1, 10.0], learning_rate=0.01)
    grouped = optimizers.GroupedAdam.from_config(grouped.get_config())
    adam = keras.optimizers.Adam(0.01)
    gradients = [tf.constant([1.0, -2.0, 0.5])] * 3
    grouped.apply(gradients, variables)
    adam.apply(gradients, plain)
    for variable, reference, factor in zip(variables, plain, (1.0, 0.1, 10.0), strict=True):
        np.testing.assert_allclose(
            1 - variable.numpy(), factor * (1 - reference.numpy()), rtol=1e-3
        )
    with pytest.raises(ValueError, match="one number for each of the 2 variables"):
        optimizers.GroupedAdam([1.0]).build(variables[:2])
    for wrong in (-1.0, float("nan"), "fast"):
        with pytest.raises(ValueError, match="factors must be a finite number of at least 0"):
            optimizers.GroupedAdam([1.0, wrong])


def test_an_optimizer_keeps_its_scales_in_a_second_model():
    models = [AutoEncoder(**SMALL) for _ in range(2)]
    factors = list(map(float, range(len(models[0].trainable_variables))))
    optimizer = optimizers.GroupedAdam(factors)
    for model in models:
        model.compile(optimizer)
        assert optimizer.factors == factors
    train_a_step(models[0])  # which it comes back to
    assert optimizer.factors == factors
    other = AutoEncoder(**SMALL)
    other.compile()
    other.optimizer = second = optimizers.GroupedAdam(factors)
    models[1].compile(second)
    train_a_step(other)
    assert second.factors == factors
    with pytest.raises(ValueError, match="optimizer: factors must hold one number"):
        models[1].compile(optimizers.GroupedAdam(factors[1:]))


def test_the_last_scale_that_holds_counts():
    scales = {"encoder": 0.5, "encoder/dense": 2.0}
    recipe = Recipe("AutoEncoder", SMALL, "digits", learning_rate_scales=scales)
    model = training.build(recipe, 8)
    factors = dict(zip(map(id, model.trainable_variables), model.optimizer.factors, strict=True))
    found = {name: factors[id(weight)] for name, weight in tuning.weights(model).items()}
    assert found["encoder/dense/kernel"] == 2.0
    assert found["encoder/stage_0_conv/kernel"] == 0.5
    assert found["decoder/to_grid/kernel"] == 1.0


# Every keyword of Adam's but the rate and the name.
ADAM_OPTIONS = [
    {"beta_1": 0.5},
    {"beta_2": 0.9},
    {"epsilon": 0.01},
    {"amsgrad": True},
    {"weight_decay": 0.5},
    {"weight_decay": 0.5, "gradient_accumulation_steps": 2},
    {"clipnorm": 0.5},
    {"clipvalue": 0.3},
    {"global_clipnorm": 0.5},
    {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    {"loss_scale_factor": 8.0},
]


def test_every_option_of_adam_is_tried():
    known = inspect.signature(keras.optimizers.Adam.__init__).parameters
    tried = {name for options in ADAM_OPTIONS for name in options}
    assert tried == set(known) - {"self", "learning_rate", "name", "kwargs"}


@pytest.mark.slow_except("amsgrad", "clipnorm", "weight_decay-*", "use_ema-*")
@pytest.mark.parametrize("options", ADAM_OPTIONS, ids=lambda options: "-".join(options))
def test_a_scale_of_a_rate_is_another_rate(options):
    """Scale s moves as Adam at s times the rate does, whatever else is asked for; 0 not at all."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal(3).astype(np.float32)
    gradients = rng.standard_normal((4, 2, 3)).astype(np.float32)
    for scale in (0.0, 0.1, 3.0):
        grouped = optimizers.GroupedAdam([scale] * 2, learning_rate=0.01, **options)
        adam = keras.optimizers.Adam(scale * 0.01, **options)
        moved = []
        for optimizer in (grouped, adam):
            variables = [keras.Variable(start) for _ in range(2)]
            for step in gradients:
                optimizer.apply([tf.constant(gradient) for gradient in step], variables)
            moved.append([variable.numpy() for variable in variables])
        np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5, atol=1e-7)
        assert np.array_equal(moved[0], [start, start]) == (scale == 0.0)


def test_weights_decay_at_their_own_rate():
    """One that is excluded from weight decay stays so."""
    grouped = optimizers.GroupedAdam([0.0, 0.5, 0.5], learning_rate=0.1, weight_decay=0.2)
    variables = [keras.Variable(np.ones(2, np.float32)) for _ in range(3)]
    grouped.exclude_from_weight_decay(var_list=variables[2:])
    grouped.apply([tf.zeros(2)] * 3, variables)
    found = [float(variable[0]) for variable in variables]
    assert found == pytest.approx([1.0, 1.0 - 0.5 * 0.1 * 0.2, 1.0])


# Weights that start anew


@pytest.mark.slow
def test_partial_loading_names_what_starts_anew(tmp_path):
    model = laws.randomised(families.find("VAE")(**SMALL, num_classes=3))
    model.save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="'partial'"):
        zoo.load(tmp_path, num_classes=5)
    with pytest.warns(UserWarning, match="keep initial values") as caught:
        loaded = zoo.load(tmp_path, load_weights="partial", num_classes=5)
    message = str(caught[0].message)
    stored, own = tuning.values(model), tuning.values(loaded)
    named = {name for name in own if f"{name} (shape" in message}
    assert named == {"encoder/dense/kernel", "decoder/dense/kernel"}
    for name, value in own.items():
        if value.shape == stored[name].shape:
            np.testing.assert_array_equal(value, stored[name], err_msg=name)
        else:
            assert name in named or name.startswith("posterior/"), name
    with pytest.warns(UserWarning, match=r"encoder/dense/kernel \(shape \(64, 8\), stored"):
        zoo.load(tmp_path, load_weights="partial", image_shape=(8, 8, 3), num_classes=None)


def test_partial_loading_of_what_fits_is_silent(tmp_path, recwarn):
    model = laws.randomised(AutoEncoder(**SMALL))
    model.save_to_preset(tmp_path)
    loaded = zoo.load(tmp_path, load_weights="partial", noise_std=0.5)
    for own, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    assert not [w for w in recwarn if "keep initial values" in str(w.message)]
    with pytest.raises(ValueError, match="load_weights must be one of True, False, partial"):
        zoo.load(tmp_path, load_weights="some")
    with pytest.raises(ValueError, match="no weight of the AutoEncoder fits"):
        tuning.copy_weights(model, keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


@pytest.mark.slow
def test_a_recipe_fine_tunes(tmp_path, capsys):
    """From weights of another image size, the encoder frozen, adapters and two rates."""
    donor = laws.randomised(AutoEncoder(**{**SMALL, "image_shape": (4, 4, 1)}))
    donor.save_to_preset(tmp_path / "donor")
    recipe = Recipe(
        family="AutoEncoder",
        model=SMALL,
        data="digits",
        batch_size=128,
        epochs=1,
        jit_compile=False,
        init_from=str(tmp_path / "donor"),
        freeze=["encoder/stage_0_conv"],
        lora={"decoder/dense": 2},
        learning_rate_scales={"encoder": 0.5},
    )
    model = training.build(recipe)
    assert (
        f"not from {tmp_path / 'donor'}: encoder/dense/kernel (shape (64, 8), stored (16, 8))"
        in capsys.readouterr().out
    )
    stored, held = tuning.values(donor), tuning.weights(model)
    kernel = "encoder/stage_0_conv/kernel"
    np.testing.assert_array_equal(held[kernel].numpy(), stored[kernel])
    assert not held[kernel].trainable
    assert held["decoder/dense/lora_kernel_a"].trainable
    factors = dict(
        zip((v.path for v in model.trainable_variables), model.optimizer.factors, strict=True)
    )
    assert factors[held["encoder/dense/kernel"].path] == 0.5
    assert factors[held["decoder/to_grid/kernel"].path] == 1.0
    trained = training.train(recipe, tmp_path / "run", verbose=0)
    np.testing.assert_array_equal(tuning.weights(trained)[kernel].numpy(), stored[kernel])
    zoo.save(trained, tmp_path / "run", recipe)
    loaded = zoo.load(tmp_path / "run")
    images = laws.images_for(loaded, 2)
    np.testing.assert_allclose(loaded(images), trained(images), atol=1e-3)


def test_a_recipe_of_parts_that_are_not_there():
    recipe = Recipe(family="AutoEncoder", model=SMALL, data="digits")
    for change in (
        {"freeze": ["generator"]},
        {"lora": {"generator": 2}},
        {"learning_rate_scales": {"generator": 2.0}},
    ):
        with pytest.raises(ValueError, match="'generator' matches nothing"):
            training.build(dataclasses.replace(recipe, **change))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_parts(family):
    assert a_part(FAMILIES[family](**next(iter(CONFIGURATIONS[family].values()))))
