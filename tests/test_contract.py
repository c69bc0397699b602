"""The contract of `GenerativeModel`, over every family in every configuration."""

import ast
import copy
import functools
import inspect
import json
import re
import subprocess
import sys
import textwrap

import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import CASES, CONDITIONAL, CONFIGURATIONS, FAMILIES, FIRST, VARIED

from tfgen import VAE, AutoEncoder, GenerativeModel, families, noise

# Members that a family may lack, with what they need to be called.
IMAGE_METHODS = ("encode", "reconstruct", "score")


def labelled(model, count: int) -> dict:
    return laws.given(model, laws.labels_for(model, count))


def half_masks(model, count: int) -> np.ndarray:
    """Keeps the upper half."""
    mask = np.zeros((count, *model.image_shape[:2], 1), bool)
    mask[:, : model.image_shape[0] // 2] = True
    return mask


# Discovery and configuration


def test_every_family_is_tested():
    assert set(CONFIGURATIONS) == set(VARIED) == set(FAMILIES)
    assert {case.family for case in CASES} == set(FAMILIES)


def test_every_family_is_a_generative_model():
    for name, family in FAMILIES.items():
        assert issubclass(family, GenerativeModel)
        assert family.__name__ == name
        assert families.find(name) is family
        assert family.likelihood in ("exact", "bound", "none")


def test_unknown_family():
    with pytest.raises(ValueError, match=r"family must be one of AutoEncoder, .*'Vae'"):
        families.find("Vae")


@pytest.mark.parametrize("family", FAMILIES)
def test_configuration_round_trip(family):
    laws.keeps_its_configuration(families.find(family), *VARIED[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_argument_is_documented(family):
    """With its type, or the form of a tuple, and with its default if it has one."""
    documented = inspect.getdoc(families.find(family))  # without Python's own indentation
    for name, argument in inspect.signature(families.find(family)).parameters.items():
        if argument.kind is argument.VAR_KEYWORD:
            continue
        entry = re.search(rf"\n    {name}: (.*?)(?=\n    \w+: |\n\n)", documented, re.DOTALL)
        assert entry, name
        text = " ".join(entry[1].split())
        assert re.match(r"(int|float|str|bool|tuple of int|list of)\b|\(", text), (name, text)
        if argument.default is argument.empty:
            continue
        default = re.match(r".*Defaults to (.*)\.$|.*?(\S+) \(the default\)", text)
        assert default, (name, text)
        given = default[1] or default[2]
        assert ast.literal_eval(given) == argument.default, (name, text)


def test_bad_constructor_arguments(first_case):
    for wrong in (
        {"num_levels": 1},
        {"num_levels": 257},
        {"latent_dim": 0},
        {"filters": (0,)},
        {"filters": (4, 4, 4, 4)},  # 8 is not divisible by 16
        {"image_shape": (8, 8, 2)},
        {"image_shape": (8, 8)},
        {"pixel_distribution": "poisson"},
        {"pixel_distribution": "bernoulli", "num_levels": 256},
        {"num_mixtures": 0},
        {"unheard_of": 1},
    ):
        name = next(iter(wrong))
        known = laws.constructor_arguments(families.find(first_case.family))
        if name in known or name == "unheard_of":
            with pytest.raises(ValueError, match=name.split("_")[0]):
                first_case(**wrong)


def test_no_tape_records_what_ends_as_an_array(first_case):
    model = first_case()
    images, labels = laws.images_for(model, 1), laws.labels_for(model, 1)
    with tf.GradientTape() as tape:
        if "sample" in model.capabilities:
            model.sample(1, labels=labels, seed=0)
        else:
            model.encode(images)
    assert not tape.watched_variables()


# Saving and loading


def slots(model) -> list[np.ndarray]:
    return [
        np.asarray(variable)
        for optimizer, _ in model.optimizers.values()
        for variable in optimizer.variables
    ]


@pytest.mark.slow_except("VAE-mixture")
def test_keras_file_keeps_everything(fitted, tmp_path):
    fitted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(fitted)
    assert loaded.get_config() == fitted.get_config()
    images = laws.images_for(fitted, 3)
    arguments = (images,) if fitted.num_classes is None else (images, laws.labels_for(fitted, 3))
    np.testing.assert_array_equal(loaded(*arguments), fitted(*arguments))
    for kept, own in zip(loaded.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, own)
    assert int(loaded.optimizer.iterations) == int(fitted.optimizer.iterations) > 0
    assert len(slots(loaded)) == len(slots(fitted)) > 2 * len(fitted.trainable_variables)
    for kept, own in zip(slots(loaded), slots(fitted), strict=True):
        np.testing.assert_array_equal(kept, own)


@pytest.mark.slow_except("VAE-mixture", "PixelCNN-gated")
def test_preset_keeps_the_model(fitted, tmp_path):
    fitted.save_to_preset(tmp_path / "preset")
    loaded = type(fitted).from_preset(tmp_path / "preset")
    assert loaded.get_config() == fitted.get_config()
    for kept, own in zip(loaded.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, own)
    assert loaded.compiled
    assert sorted(p.name for p in (tmp_path / "preset").iterdir()) == [
        "config.json",
        "metadata.json",
        "model.weights.h5",
    ]


def test_preset_of_another_family(tmp_path):
    a, b = (next(case for case in CASES if case.family == f) for f in list(FAMILIES)[:2])
    a().save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=rf"holds a {a.family}.*{a.family}\.from_preset"):
        families.find(b.family).from_preset(tmp_path)


@pytest.mark.slow
def test_fresh_process_loads_equal_outputs(tmp_path):
    """All families in one new process, which imports nothing but keras and tfgen."""
    expected = {}
    for case in CASES:
        model = laws.randomised(case())
        model.compile()
        model.save(tmp_path / f"{case.family}-{case.name}.keras")
        images = laws.images_for(model, 3)
        labels = laws.labels_for(model, 3)
        arguments = (images,) if labels is None else (images, labels)
        expected[f"{case.family}-{case.name}"] = np.asarray(model(*arguments))
        np.savez(tmp_path / f"{case.family}-{case.name}.npz", *arguments)
    script = """
        import sys
        from pathlib import Path
        import keras
        import numpy as np
        import tfgen

        for path in Path(sys.argv[1]).glob("*.keras"):
            model = keras.models.load_model(path)
            with np.load(path.with_suffix(".npz")) as arguments:
                outputs = model(*(arguments[name] for name in arguments.files))
            np.save(path.with_suffix(".npy"), outputs)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), tmp_path], check=True)
    for name, outputs in expected.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), outputs)


# Images out


def test_sampling(fitted):
    if "sample" not in fitted.endpoints():
        with pytest.raises(NotImplementedError, match=f"{type(fitted).__name__} has no 'sample': "):
            fitted.sample(2)
        return
    laws.samples_are_images(fitted)
    laws.seeds_decide(fitted)
    laws.batch_mates_do_not_matter(fitted)
    laws.temperature_zero_is_one_image(fitted)
    if fitted.num_classes is not None:
        laws.labels_matter(fitted)


@pytest.mark.slow_except("GAN-dcgan")
def test_noise_of_samples_is_equal_under_xla(fitted):
    if "sample" not in fitted.endpoints():
        pytest.skip("the family cannot be sampled from")
    function, _ = fitted.endpoints()["sample"]
    arguments = [tf.range(6, dtype=tf.int64)]
    if fitted.num_classes is not None:
        arguments.append(tf.constant(laws.labels_for(fitted, 6)))
    compiled = tf.function(function, jit_compile=True, autograph=False)(*arguments)
    plain = fitted.sample(6, seed=0, **labelled(fitted, 6))
    laws.assert_close_images(compiled["images"].numpy(), plain, fitted.num_levels)


def test_latents(fitted):
    if not hasattr(fitted, "encoder"):
        pytest.skip("the family has no encoder")
    images = laws.images_for(fitted, 5)
    latents = fitted.encode(images, **labelled(fitted, 5))
    assert isinstance(latents, np.ndarray)
    assert latents.dtype == np.float32
    assert latents.shape == (5, fitted.latent_dim)
    decoded = fitted.decode(latents, **labelled(fitted, 5))
    assert decoded.dtype == np.uint8
    assert decoded.shape == images.shape
    reconstructed = fitted.reconstruct(images, **labelled(fitted, 5))
    laws.assert_close_images(reconstructed, decoded, fitted.num_levels)
    # `call` is the same image before it is rounded to a level.
    arguments = [images] if fitted.num_classes is None else [images, laws.labels_for(fitted, 5)]
    outputs = fitted(*arguments)
    assert outputs.dtype == tf.float32
    assert outputs.shape == images.shape
    step = 255 / (fitted.num_levels - 1)
    assert np.abs(outputs - reconstructed.astype(np.float32)).max() <= step / 2 + 0.6


def test_interpolation(fitted):
    if not hasattr(fitted, "encoder"):
        pytest.skip("the family has no encoder")
    a, b = laws.images_for(fitted, 3), laws.images_for(fitted, 3, seed=1)
    line = fitted.interpolate(a, b, 4, **labelled(fitted, 3))
    assert line.dtype == np.uint8
    assert line.shape == (3, 4, *fitted.image_shape)
    for end, images in ((0, a), (-1, b)):
        expected = fitted.reconstruct(images, **labelled(fitted, 3))
        laws.assert_close_images(line[:, end], expected, fitted.num_levels)
    of_a, of_b = (fitted.encode(images, **labelled(fitted, 3)) for images in (a, b))
    between = fitted.decode(2 / 3 * of_a + 1 / 3 * of_b, **labelled(fitted, 3))
    laws.assert_close_images(line[:, 1], between, fitted.num_levels)
    with pytest.raises(ValueError, match="the same number of rows"):
        fitted.interpolate(a, b[:2], **laws.given(fitted, 0))
    with pytest.raises(ValueError, match="steps must be"):
        fitted.interpolate(a, b, 1, **labelled(fitted, 3))


def test_encoder_works_in_a_sequential(first_case):
    model = first_case()
    if not hasattr(model, "encoder"):
        pytest.skip("the family has no encoder")
    classifier = keras.Sequential([model.encoder, keras.layers.Dense(10)])
    assert classifier(laws.images_for(model, 2)).shape == (2, 10)


@pytest.mark.slow_except("VAE-3")
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("family", ["AutoEncoder", "VAE", "HierarchicalVAE", "GAN"])
def test_networks_are_parts_of_other_models_that_keras_saves(family, num_classes, tmp_path):
    """With the images and the labels that they take; loaded, they give the same."""
    arguments = {**VARIED[family][0], "candidates": 1}
    known = laws.constructor_arguments(FAMILIES[family])
    arguments["num_classes"] = num_classes
    model = laws.randomised(
        FAMILIES[family](**{name: value for name, value in arguments.items() if name in known})
    )
    every = ("encoder", "decoder", "generator", "discriminator")
    networks = [name for name in every if hasattr(model, name)]
    assert networks
    for name in networks:
        network = getattr(model, name)
        inputs = [keras.Input(each.shape[1:], dtype=each.dtype) for each in network.inputs]
        output = network(inputs if len(inputs) > 1 else inputs[0])
        whole = keras.Model(inputs, keras.layers.Flatten()(output))
        whole.save(tmp_path / f"{name}.keras")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        given = [
            tf.ones((2, *each.shape[1:]), each.dtype) * (1 if each.dtype == "int64" else 3)
            for each in inputs
        ]
        given = given if len(given) > 1 else given[0]
        np.testing.assert_allclose(loaded(given), whole(given), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(copy.deepcopy(network)(given), network(given))
    if "encoder" in networks:  # whose layers the decoder may share
        inputs = [keras.Input(each.shape[1:], dtype=each.dtype) for each in model.encoder.inputs]
        latents = model.encoder(inputs if len(inputs) > 1 else inputs[0])
        images = model.decoder([latents, *inputs[1:]] if inputs[1:] else latents)
        both = keras.Model(inputs, images)
        both.save(tmp_path / "both.keras")
        loaded = keras.models.load_model(tmp_path / "both.keras")
        for own, expected in zip(loaded.get_weights(), both.get_weights(), strict=True):
            np.testing.assert_array_equal(own, expected)
        given = [
            tf.ones((2, *each.shape[1:]), each.dtype) * (1 if each.dtype == "int64" else 3)
            for each in inputs
        ]
        given = given if len(given) > 1 else given[0]
        np.testing.assert_allclose(loaded(given), both(given), rtol=1e-5, atol=1e-5)


def test_empty_batch(fitted):
    nothing = laws.images_for(fitted, 0)
    labels = laws.given(fitted, [])
    assert fitted.image_seeds(0, []).shape == (0,)
    for name in IMAGE_METHODS:
        if name in fitted.endpoints():
            assert getattr(fitted, name)(nothing, **labels).shape[0] == 0
    if "reconstruct" in fitted.endpoints():
        assert fitted.reconstruct(nothing, **labels).dtype == np.uint8
    if fitted.likelihood != "none":
        assert fitted.log_likelihood(nothing, **labels).shape == (0,)


# Likelihood


def test_likelihood(fitted):
    if fitted.likelihood == "none":
        with pytest.raises(NotImplementedError, match=r"has no 'log_likelihood': .+"):
            fitted.log_likelihood(laws.images_for(fitted, 1))
        return
    laws.likelihoods_are_per_image(fitted)


def test_loss_is_the_likelihood(case):
    if case().likelihood == "none":
        pytest.skip("the family has no likelihood")
    # Objectives other than the likelihood: a weighted KL, and one of several orders for all.
    # And a critic's loss, which is added.
    plain = {"beta": 1.0, "orders": 1, "candidates": 1}
    model = case(**{name: plain[name] for name in plain if name in case.arguments})
    laws.loss_is_minus_log_likelihood(laws.randomised(model))


@pytest.mark.slow_except("VAE")
def test_probabilities_sum_to_one(first_case):
    if first_case().likelihood == "none":
        pytest.skip("the family has no likelihood")
    binary = {"image_shape": (2, 2, 1), "num_levels": 2, "pixel_distribution": "bernoulli"}
    known = laws.constructor_arguments(type(first_case()))
    if "members" in known:
        pytest.skip("its members have the arguments; see test_pixel_ensemble.py")
    model = first_case(**{name: value for name, value in binary.items() if name in known})
    laws.fit_quickly(model, laws.all_images((2, 2, 1)), None, steps=100)
    laws.probabilities_sum_to_one(model)


# Training


def test_overfits_one_batch(fitted):
    if "loss" not in fitted.loss_names:
        pytest.skip("two objectives that pull against each other; see test_gan.py")
    losses = fitted.history.history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
    assert set(fitted.history.history) == set(fitted.loss_names)


def test_every_weight_moves(case):
    laws.every_weight_moves(case())


@pytest.mark.slow_except("VAE-*", "HierarchicalVAE-bernoulli")
def test_gradients_are_the_slopes_of_the_loss(case):
    model = case()
    if "loss" not in model.loss_names:
        pytest.skip("two objectives that pull against each other; see test_gan.py")
    if getattr(model, "candidates", 1) > 1 or getattr(model, "prior", "") == "continuous_flow":
        pytest.skip("parts of its loss stop the gradient on purpose")
    laws.gradients_are_the_slopes_of_the_loss(model)


@pytest.mark.slow
def test_evaluation_repeats_itself(fitted):
    images, labels = laws.images_for(fitted, 7), laws.labels_for(fitted, 7)
    first = fitted.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    second = fitted.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    assert first == second
    assert set(first) == set(fitted.loss_names)


@pytest.mark.slow_except("VAE")
def test_fit_with_defaults(first_case):
    """`compile()` as zoo.load calls it, then images alone, then a data set of them."""
    model = first_case()
    model.compile()
    images = laws.images_for(model, 4)
    history = model.fit(images, verbose=0)
    assert np.isfinite(history.history[model.loss_names[0]]).all()
    before = model.get_weights()
    model.fit(tf.data.Dataset.from_tensor_slices(images).batch(2), verbose=0)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_loss_is_the_models_own(first_case):
    with pytest.raises(ValueError, match=r"loss=.*must be left out.*'mse'"):
        first_case().compile(loss="mse")


@pytest.mark.slow_except("VAE", "GAN")
def test_training_noise_is_a_function_of_seed_and_step(first_case):
    def seeds(seed, step, count=6):
        model = first_case(seed=seed)
        model.compile()
        model.optimizer.iterations.assign(step)
        return model.step_seeds(tf.constant(count)).numpy()

    base = seeds(1, 10)
    np.testing.assert_array_equal(seeds(1, 10), base)
    np.testing.assert_array_equal(seeds(1, 10, count=3), base[:3])
    assert len(np.unique([base, seeds(1, 11), seeds(2, 10)])) == 18


@pytest.mark.slow_except("VAE")
def test_each_small_batch_of_an_accumulated_one_has_its_own_noise(first_case):
    """Keras' `iterations` stands still between the updates; the noise must not."""
    model = first_case()
    model.compile()
    accumulating = {
        name: keras.optimizers.Adam(1e-3, gradient_accumulation_steps=4)
        for name in model.optimizers
    }
    model.compile(**accumulating)
    model.build_optimizers()
    optimizer, variables = next(iter(model.optimizers.values()))
    seeds = []
    for _ in range(8):
        seeds.append(model.step_seeds(tf.constant(3)).numpy())
        optimizer.apply([tf.zeros_like(v.value) for v in variables], variables)
    assert int(optimizer.iterations) == 2
    assert len(np.unique(seeds)) == 24


def has_noise(model) -> bool:
    """Whether the training objective draws any."""
    arguments = ("noise_std", "dropout")
    drawn = any(getattr(model, name, 0) for name in arguments)
    return drawn or model.likelihood == "bound" or "score" in model.capabilities


def test_losses_follow_their_seeds(case):
    """Equal seeds, equal losses; other seeds, other losses where the objective has noise."""
    model = laws.randomised(case())
    model.compile()
    model.optimizer.iterations.assign(100)  # past any warm-up
    images = tf.constant(laws.images_for(model, 4))
    labels = None if model.num_classes is None else tf.constant(laws.labels_for(model, 4))

    def losses(seeds):
        losses = model.losses_per_image(images, labels, seeds, training=True)
        return losses[model.loss_names[0]].numpy()

    seeds = tf.range(4, dtype=tf.int64)
    assert losses(seeds).shape == (4,)
    np.testing.assert_array_equal(losses(seeds), losses(seeds))
    if has_noise(model):
        assert (losses(seeds) != losses(noise.fold(seeds, 1))).all()


@pytest.mark.slow
def test_sample_weights(first_case):
    """An image of weight 0 has no say in the loss."""
    model = laws.randomised(first_case())
    model.compile(run_eagerly=True)
    images = laws.images_for(model, 2)
    alone = model.evaluate(images[:1], batch_size=1, verbose=0)
    weight = np.array([1.0, 0.0], np.float32)
    weighted = model.evaluate(
        images, np.zeros(2, np.int64), sample_weight=weight, batch_size=2, verbose=0
    )
    np.testing.assert_allclose(weighted, alone, rtol=1e-5)


def first_steps(model, count: int, weight: np.ndarray | None) -> list[np.ndarray]:
    """How far the first step moves each weight, in one network after the other, at rate 1."""
    images, labels, moves = laws.images_for(model, count), laws.labels_for(model, count), []
    if "discriminator_steps" in model.settable:
        model.discriminator_steps = 1  # a second one begins where the first one ended
    start = model.get_weights()
    for name in model.updates_per_step:
        rates = {other: float(other == name) for other in model.updates_per_step}
        model.compile(
            **{other: keras.optimizers.SGD(rate) for other, rate in rates.items()}, run_eagerly=True
        )
        model.steps_before = 0
        _, variables = model.optimizers[name]
        before = [variable.numpy() for variable in variables]
        model.train_on_batch(images, labels, sample_weight=weight)
        moves += [v.numpy() - old for v, old in zip(variables, before, strict=True)]
        model.set_weights(start)
    return moves


@pytest.mark.slow_except("AutoEncoder", "GAN")
def test_weights_of_images_scale_the_step(first_case):
    """Half the weight moves half as far, as in Keras; also where an image is alone in its batch."""
    model = laws.randomised(first_case())
    for count, weight in ((4, 0.5), (1, 0.1)):
        whole = first_steps(model, count, None)
        part = first_steps(model, count, np.full(count, weight, np.float32))
        assert max(np.abs(move).max() for move in whole) > 1e-3
        for own, full in zip(part, whole, strict=True):
            atol = 1e-4 * np.abs(full).max() + 1e-6  # a weight is stored to seven digits
            np.testing.assert_allclose(own, weight * full, rtol=1e-3, atol=atol)


IN_32_BITS = {  # outputs whose rounding would show
    *("mean", "raw_scale", "latents", "logit", "top_posterior", "to_prior", "to_posterior"),
    *("to_pixels", "parameters"),
}


@pytest.mark.slow_except("VAE")
def test_mixed_precision(first_case):
    model = first_case(dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    computed = {
        layer.name: layer.compute_dtype
        for layer in model._flatten_layers()
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    }
    assert {name for name, dtype in computed.items() if dtype != "bfloat16"} <= IN_32_BITS
    assert set(computed.values()) >= {"bfloat16"}
    model.compile(run_eagerly=True)
    images = laws.images_for(model, 4)
    logs = model.train_on_batch(images, return_dict=True)
    assert all(np.isfinite(value) for value in logs.values())
    assert all(variable.dtype == "float32" for variable in model.trainable_variables)
    outputs = model(images)
    assert outputs.dtype == tf.float32
    assert np.isfinite(outputs).all()
    if model.likelihood != "none":
        assert model.log_likelihood(images).dtype == np.float32
    config = model.get_config()
    assert type(model).from_config(config).dtype_policy.name == "mixed_bfloat16"


# Export


@pytest.mark.slow_except("GAN-dcgan", "PixelCNN-gated")
def test_exported_signatures_give_the_same_bytes(fitted, tmp_path):
    path = fitted.export(tmp_path / "model", num_samples=3)
    loaded = tf.saved_model.load(str(path)).signatures
    assert set(loaded) == set(fitted.signatures())
    images = laws.images_for(fitted, 5)
    labels = labelled(fitted, 5)
    given = {
        "images": tf.constant(images),
        "seed": tf.range(20, 25, dtype=tf.int64),
        "mask": tf.constant(half_masks(fitted, 5)),
        **{name: tf.constant(value) for name, value in labels.items()},
    }
    if "decode" in loaded:
        given["latents"] = tf.random.stateless_normal((5, fitted.latent_dim), (0, 1))
    expected = {
        "sample": lambda: fitted.sample(5, seed=20, **labels),
        "latents": lambda: fitted.latents(5, seed=20, **labels),
        "complete": lambda: fitted.complete(images, given["mask"], seed=20, **labels),
        "encode": lambda: fitted.encode(images, **labels),
        "decode": lambda: fitted.decode(given["latents"], **labels),
        "reconstruct": lambda: fitted.reconstruct(images, **labels),
        "log_likelihood": lambda: fitted.log_likelihood(images, num_samples=3, seed=20, **labels),
        "log_likelihood_map": lambda: fitted.log_likelihood_map(images, **labels),
        "score": lambda: fitted.score(images, **labels),
    }
    for name in fitted.endpoints():
        signature = loaded[name]
        wanted = {argument: given[argument] for argument in signature.structured_input_signature[1]}
        (output,) = signature(**wanted).values()
        np.testing.assert_array_equal(output, expected[name](), err_msg=name)


# Bad input


def image_calls(model) -> list:
    calls = [getattr(model, name) for name in IMAGE_METHODS if name in model.endpoints()]
    if model.likelihood != "none":
        calls.append(model.log_likelihood)
    if "encode" in model.endpoints():
        calls.append(lambda images, **labels: model.interpolate(images, images, **labels))
    if "complete" in model.endpoints():
        calls.append(model.log_likelihood_map)
        calls.append(
            lambda images, **labels: model.complete(
                images, half_masks(model, len(images)), **labels
            )
        )
    return calls


def test_bad_images(fitted):
    good = laws.images_for(fitted, 2)
    height, width, channels = fitted.image_shape
    wrong = {
        r"must be uint8.*float32.*np.round\(255": (good / 255).astype(np.float32),
        "must be uint8.*received dtype int64": good.astype(np.int64),
        r"must have shape.*images\[None\]": good[0],
        "must have shape.*Resize": np.zeros((2, height + 1, width, channels), np.uint8),
        "must have shape": np.zeros((2, height, width, 4 - channels), np.uint8),
        r"have values in \{0, 1\}, .*multiply them by 255": (good > 0).astype(np.uint8),
    }
    if fitted.num_levels < 256:
        wrong["must hold only the model's .* levels.*received the value 3"] = good * 0 + 3
    for call in image_calls(fitted):
        for message, images in wrong.items():
            with pytest.raises(ValueError, match=f"(?s)images {message}"):
                call(images, **labelled(fitted, 2))


def test_float_images_never_train(first_case):
    model = first_case()
    model.compile(run_eagerly=True)
    images = laws.images_for(model, 2)
    for wrong in (images / 255, images[:, 1:]):
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="images must"):
                call(wrong, verbose=0)
    if "encode" in model.capabilities:
        with pytest.raises(ValueError, match="look already scaled"):
            model.encoder((images / 255).astype(np.float32))


@pytest.mark.slow
def test_scaled_images_are_not_numbers_where_nothing_can_be_raised(first_case):
    """XLA drops assertions: an encoder must not take images in [0, 1] as black ones.

    Images of zeros and ones alone may be dark ones, so here no value is whole.
    """
    model = first_case()
    if "encode" not in model.capabilities:
        pytest.skip("the family has no encoder")
    encoder = tf.function(model.encoder, jit_compile=True)
    images = laws.images_for(model, 2).astype(np.float32)
    assert all(np.isfinite(found).all() for found in tf.nest.flatten(encoder(images)))
    assert all(np.isnan(found).all() for found in tf.nest.flatten(encoder(images / 510)))


def test_bad_labels(fitted):
    images = laws.images_for(fitted, 2)
    calls = [functools.partial(call, images) for call in image_calls(fitted)]
    if "sample" in fitted.endpoints():
        calls.append(functools.partial(fitted.sample, 2))
    if "decode" in fitted.endpoints():
        calls.append(functools.partial(fitted.decode, np.zeros((2, fitted.latent_dim))))
    for call in calls:
        if fitted.num_classes is None:
            with pytest.raises(ValueError, match=r"labels must be left out.*unconditional"):
                call(labels=[0, 1])
            continue
        classes = fitted.num_classes
        with pytest.raises(ValueError, match=f"labels are required.*{classes} classes"):
            call()
        for labels in ([0, classes], [-1, 0]):
            with pytest.raises(ValueError, match=rf"labels must lie in \[0, {classes - 1}\]"):
                call(labels=labels)
        for labels in ([0, 1, 0], [0.0, 1.0], [[0, 1]]):
            with pytest.raises(ValueError, match=r"integers of shape \(2,\)"):
                call(labels=labels)


@pytest.mark.slow
def test_bad_labels_of_an_exported_graph(case):
    """TensorFlow Serving knows nothing of classes, so the graph itself looks."""
    model = case()
    if model.num_classes is None:
        pytest.skip("the model takes no labels")
    for name, graph in model.signatures().items():
        specs = graph.input_signature
        given = [tf.zeros((2, *spec.shape[1:]), spec.dtype) for spec in specs]
        if "labels" not in [spec.name for spec in specs]:
            continue
        place = [spec.name for spec in specs].index("labels")
        for wrong in (-1, model.num_classes):
            given[place] = tf.constant([0, wrong], tf.int64)
            with pytest.raises(tf.errors.InvalidArgumentError, match="labels must lie in"):
                graph(*given)
        given[place] = tf.constant([0, model.num_classes - 1], tf.int64)
        assert graph(*given), name


def test_latents_of_any_kind_of_number(fitted):
    """As a tensor, too, which TensorFlow converts to no other dtype by itself."""
    if "decode" not in fitted.endpoints():
        pytest.skip("the family has no decoder")
    labels, shape = labelled(fitted, 2), (2, fitted.latent_dim)
    expected = fitted.decode(np.zeros(shape, np.float32), **labels)
    for dtype in (tf.float64, tf.float16, tf.int32):
        np.testing.assert_array_equal(fitted.decode(tf.zeros(shape, dtype), **labels), expected)


def test_bad_latents(fitted):
    if "decode" not in fitted.endpoints():
        pytest.skip("the family has no decoder")
    labels = labelled(fitted, 2)
    good = np.zeros((2, fitted.latent_dim), np.float32)
    for latents in (good * np.nan, good + np.inf):
        with pytest.raises(ValueError, match="latents must be finite"):
            fitted.decode(latents, **labels)
    for latents in (good[0], good[:, :1], good[None]):
        with pytest.raises(ValueError, match=r"latents must have shape \(batch, "):
            fitted.decode(latents, **labels)


def test_bad_sampling_arguments(fitted):
    if "sample" not in fitted.endpoints():
        pytest.skip("the family cannot be sampled from")
    label = laws.given(fitted, 0)
    for count in (0, -1, 1.5, True, None, np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"num_samples must be .*received {count}"):
            fitted.sample(count, **label)
    for temperature in (-0.1, np.nan, np.inf, None):
        with pytest.raises(ValueError, match=f"temperature must be .*received {temperature}"):
            fitted.sample(1, temperature=temperature, **label)
    for seed in (1.5, "0", [1, 2, 3], True, [[1, 2]], 2**70):
        with pytest.raises(ValueError, match="seed must be None, an integer, or 2 "):
            fitted.sample(2, seed=seed, **label)
    with pytest.raises(ValueError, match=r"batch_size must be .*at least 1; received 0"):
        fitted.sample(2, batch_size=0, **label)
    if fitted.likelihood != "none":
        with pytest.raises(ValueError, match=r"num_samples must be .*received 0"):
            fitted.log_likelihood(laws.images_for(fitted, 1), num_samples=0, **label)
        with pytest.raises(TypeError, match="positional"):  # a label, perhaps
            fitted.log_likelihood(laws.images_for(fitted, 1), 1, **label)


@pytest.mark.slow_except("VAE", "PixelCNN")
def test_evaluation_noise_tells_images_of_equal_sums_apart(first_case, monkeypatch):
    """The same pixels in other places are another image, and get another seed."""
    model = first_case()
    images = np.zeros((2, *model.image_shape), np.uint8)
    images[0, 0, 0, 0] = images[1, -1, -1, -1] = 255
    labels = laws.labels_for(model, 2)
    whole, seen = type(model).losses_per_image, []

    def recorded(self, images, labels, seeds, training):
        seen.append(seeds.numpy())
        return whole(self, images, labels, seeds, training)

    monkeypatch.setattr(type(model), "losses_per_image", recorded)
    model.test_step(images if labels is None else (images, labels))
    ((one, other),) = seen
    assert one != other


@pytest.mark.slow_except("VAE-mixture", "PixelCNN-gated")
def test_evaluation_does_not_depend_on_the_batch_size(fitted):
    images, labels = laws.images_for(fitted, 6), laws.labels_for(fitted, 6)
    at_once, in_pairs = (
        fitted.evaluate(images, labels, batch_size=size, verbose=0, return_dict=True)
        for size in (6, 2)
    )
    for name, value in at_once.items():
        assert in_pairs[name] == pytest.approx(value, rel=1e-4), name


def test_fit_refuses_wrong_labels(case):
    model = case()
    model.compile(jit_compile=False)
    images = laws.images_for(model, 4)
    if model.num_classes is None:
        wrong = {"left out": np.zeros(4, np.int64)}
    else:
        wrong = {
            "must lie in": np.full(4, model.num_classes),
            "integers": np.zeros(4, np.float32),
            "are required": None,
        }
    for words, labels in wrong.items():
        with pytest.raises(ValueError, match=words):
            model.fit(images, labels, verbose=0)


@pytest.mark.parametrize(
    "case_of", [*FIRST, *CONDITIONAL], ids=lambda case: f"{case.family}-{case.name}"
)
def test_a_direct_call_wants_the_labels_that_other_methods_want(case_of):
    model = case_of()
    images = laws.images_for(model, 2)
    classes = model.num_classes
    if "labels" not in inspect.signature(model.call).parameters:
        pytest.skip("its call takes no labels")
    if classes is None:
        wrong = {"labels must be left out": np.array([0, 0])}
    else:
        wrong = {
            "labels are required": None,
            "must lie in": np.array([0, classes]),
        }
    for words, labels in wrong.items():
        with pytest.raises(ValueError, match=words):
            model(images, labels=labels)
    if classes:  # as `fit` takes them
        own = np.array([0, classes - 1])
        found, expected = (model(images, labels=given) for given in (own[:, None], own))
        for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(one, other)
    traced = tf.function(lambda images, labels: model(images, labels=labels), autograph=False)
    with pytest.raises(ValueError, match="are required" if classes else "left out"):
        traced(tf.constant(images), None if classes else tf.constant([0, 0]))


def test_attributes_of_sampling_are_checked_when_they_are_set(first_case):
    model = first_case()
    for name, wrong in (("num_workers", (0, -1, 2.5, "2", True)), ("jit_sampling", (1, "yes"))):
        before = getattr(model, name)
        for value in wrong:
            with pytest.raises(ValueError, match=f"{name} must be"):
                setattr(model, name, value)
            assert getattr(model, name) == before


def test_seeds_stay_below_2_to_63(fitted):
    last = 2**63 - 1
    for seed, own in ((last - 1, [last - 1, last]), ([last, -last - 1], [last, -last - 1])):
        np.testing.assert_array_equal(fitted.image_seeds(2, seed), own)
    for seed in (2**63, last, [0, 2**63]):
        with pytest.raises(ValueError, match="seed must be"):
            fitted.image_seeds(2, seed)


def test_no_two_images_share_the_noise_of_evaluate():
    """Not even of all that there are."""
    model = VAE((2, 6, 1), filters=(), dense_units=2, pixel_distribution="bernoulli", num_levels=2)
    seen = []

    class Noted(Exception):
        pass

    def losses(images, labels, seeds, training):
        seen.extend(seeds.numpy())
        raise Noted

    model.losses_per_image = losses
    with pytest.raises(Noted):
        model.test_step(tf.constant(laws.all_images((2, 6, 1))))
    assert len(set(seen)) == len(seen) == 2**12


def test_a_subclass_with_arguments_of_its_own_keeps_all():
    """A family that takes more arguments, and passes the rest on, is saved with both."""

    class Named(AutoEncoder):
        def __init__(self, places: list, **kwargs):
            super().__init__(**kwargs)
            self.keep(locals())

    model = Named([[1, 2], [3]], image_shape=(8, 8, 1), latent_dim=3, filters=[4], dense_units=8)
    config = model.get_config()
    assert config["places"] == [[1, 2], [3]]
    assert (config["latent_dim"], config["filters"]) == (3, [4])
    again = Named.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert again.places == ((1, 2), (3,))

    class Sharp(AutoEncoder):
        def __init__(self, *args, sharpness=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.keep(locals())

    model = Sharp((8, 8, 1), sharpness=2.0, latent_dim=3, filters=[4], dense_units=8)
    again = Sharp.from_config(model.get_config())
    assert (again.sharpness, again.latent_dim) == (2.0, 3)
    assert again.get_config() == model.get_config()
