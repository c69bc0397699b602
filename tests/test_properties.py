"""Random constructor arguments of every family: it builds, learns, saves, loads, draws, exports.

50 cases here, 500 with `pytest -m nightly tests/test_properties.py`, spread over the families. The
values of an argument come from its name, so a new family is covered once its arguments are below.
"""

import tempfile
from pathlib import Path

import exported
import hypothesis
import keras
import laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import FAMILIES
from hypothesis import strategies as st

from tfgen import families

CASES, NIGHTLY_CASES = 50, 500


def widths(least: int, most: int):
    return st.lists(st.integers(1, 5), min_size=least, max_size=most).map(tuple)


# Tiny values of every argument there is. Those that have to fit one another follow in `arguments`.
VALUES = {
    "latent_dim": st.integers(1, 4),
    "num_blocks": st.integers(0, 2),
    "decoder_blocks": st.none() | st.integers(0, 1),
    "dense_units": st.integers(1, 6),
    "num_mixtures": st.integers(1, 3),
    "noise_std": st.sampled_from([0.0, 0.3]),
    "prior": st.sampled_from(["standard_normal", "flow", "continuous_flow", "vamp"]),
    "prior_components": st.integers(1, 3),
    "prior_steps": st.integers(1, 3),
    "prior_tail": st.sampled_from([0.0, 0.1]),
    "beta": st.sampled_from([0.0, 0.5, 1.0]),
    "kl_warmup_steps": st.integers(0, 3),
    "num_importance_samples": st.integers(1, 3),
    "num_classes": st.none() | st.integers(1, 4),
    "spectral_normalization": st.booleans(),
    "objective": st.sampled_from(
        ["minimax", "non_saturating", "least_squares", "hinge", "wasserstein_gp"]
    ),
    "gradient_penalty": st.sampled_from([0.0, 10.0]),
    "r1": st.sampled_from([0.0, 0.5]),
    "discriminator_steps": st.integers(1, 2),
    "ema_momentum": st.sampled_from([0.0, 0.9]),
    "candidates": st.integers(1, 3),
    "selectivity": st.sampled_from([0.0, 1.0, 8.0]),
    "critic_units": st.integers(1, 4),
    "network": st.sampled_from(["dcgan", "residual"]),
    "augment": st.booleans(),
    "top_dim": st.integers(1, 4),
    "prior_units": st.integers(1, 4),
    "free_bits": st.sampled_from([0.0, 0.2]),
    "fourier_features": st.integers(0, 3),
    "block": st.sampled_from(["gated", "residual"]),
    "cell": st.sampled_from(["row_lstm", "diagonal_bilstm"]),
    "kernel_size": st.sampled_from([(1, 3), (2, 5), (3, 1)]),
    "head_units": st.integers(1, 4),
    "dropout": st.sampled_from([0.0, 0.2]),
    "guidance": st.sampled_from([0.0, 0.5, 3.0]),
    "seed": st.integers(0, 2**32 - 1),
}


@st.composite
def arguments(draw, family: str) -> dict:
    """Constructor arguments that fit one another."""
    if family == "PixelEnsemble":
        return draw(ensembles())
    known = laws.constructor_arguments(families.find(family))
    chosen = {name: draw(values) for name, values in VALUES.items() if name in known}
    stages = draw(st.integers(1, 2))
    side = st.sampled_from([4, 8])
    chosen["image_shape"] = (draw(side), draw(side), draw(st.sampled_from([1, 3])))
    if isinstance(known["filters"].default, int):
        chosen["filters"] = draw(st.integers(2, 5))
    else:
        chosen["filters"] = draw(widths(stages, stages))
    if "attention_heads" in known:
        chosen["attention_heads"] = draw(st.sampled_from([0, 1, chosen["filters"]]))
    if "generator_filters" in known:
        chosen["generator_filters"] = draw(st.none() | widths(stages, stages))
    if "decoder_filters" in known:
        chosen["decoder_filters"] = draw(st.none() | widths(1, stages + 1))
    if "groups" in known:
        chosen["filters"] = draw(widths(stages, stages))
        chosen["groups"] = draw(
            widths(stages, stages).map(lambda groups: tuple(g % 3 for g in groups))
        )
        chosen["group_channels"] = draw(widths(stages, stages))
        mixed = st.lists(st.booleans(), min_size=stages, max_size=stages)
        chosen["mixing"] = draw(st.none() | mixed.map(tuple))
        chosen["prior"] = draw(st.sampled_from(["standard_normal", "flow", "continuous_flow"]))
    if chosen.get("prior") == "flow":
        chosen["top_dim" if "top_dim" in known else "latent_dim"] = draw(st.integers(2, 4))
    if chosen.get("network") == "residual":
        chosen["num_blocks"] = max(1, chosen["num_blocks"])
    if "pixel_distribution" in known:
        exact = families.find(family).likelihood == "exact"  # which a density is not
        names = ["bernoulli", "categorical", "discretized_logistic_mixture", "gaussian"]
        chosen["pixel_distribution"] = draw(st.sampled_from(names[:3] if exact else names))
    most = 8 if chosen.get("pixel_distribution") == "categorical" else 256
    chosen["num_levels"] = draw(st.integers(2, most))
    if chosen.get("pixel_distribution") == "bernoulli":
        chosen["num_levels"] = 2
    if "token_shape" in known:
        chosen["token_shape"] = draw(st.sampled_from([(1, 1), (2, 2), (2, 4), (1, 2)]))
        square = chosen["image_shape"][0] == chosen["image_shape"][1]
        chosen["orders"] = draw(st.sampled_from([1, 2, 4, 8] if square else [1, 2]))
        if chosen["token_shape"] != (1, 1) and chosen["pixel_distribution"] == "bernoulli":
            chosen["fourier_features"] = 0
        logits = chosen["pixel_distribution"] != "discretized_logistic_mixture"
        if chosen["num_classes"] is None or not logits:
            chosen["guidance"] = 0.0
    return chosen


@st.composite
def ensembles(draw) -> dict:
    """Members that read the same tokens, of which some know classes."""
    first = draw(arguments("PixelCNN"))
    first["orders"], first["guidance"] = 1, 0.0
    if first["pixel_distribution"] == "discretized_logistic_mixture":
        first["pixel_distribution"], first["num_levels"] = "categorical", 5
    known = draw(st.integers(1, 3))
    members = [
        {"family": "PixelCNN", "config": {**first, "num_classes": classes, "num_blocks": blocks}}
        for blocks, classes in enumerate(draw(st.permutations([None, known, known])))
    ]
    told = draw(st.sampled_from([None, known]))
    return {
        "members": members[: draw(st.integers(2, 3))],
        "num_classes": told,
        "guidance": 0.0 if told is None else draw(VALUES["guidance"]),
        "seed": draw(VALUES["seed"]),
    }


def property_of(family: str, cases: int):
    @hypothesis.settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],  # to shrink a failure would cost hours
    )
    @hypothesis.given(arguments(family))
    def holds(chosen):
        model = families.find(family)(**chosen)
        works_from_end_to_end(model)
        keras.backend.clear_session()

    return holds


def works_from_end_to_end(model) -> None:
    """One step, save, load, equal outputs, a draw, a score, an export with the same bytes."""
    images, labels = laws.images_for(model, 4), laws.labels_for(model, 4)
    given = laws.given(model, labels)
    model.compile(run_eagerly=True)
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert set(logs) == set(model.loss_names)
    assert np.isfinite(list(logs.values())).all(), logs
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    assert loaded.get_config() == model.get_config()
    call = (images,) if labels is None else (images, labels)
    np.testing.assert_array_equal(np.asarray(loaded(*call)), np.asarray(model(*call)))
    endpoints = model.endpoints()
    if "sample" in endpoints:
        drawn = model.sample(2, seed=1, **laws.given(model, 0))
        assert drawn.shape == (2, *model.image_shape)
        assert drawn.dtype == np.uint8
        np.testing.assert_array_equal(drawn, loaded.sample(2, seed=1, **laws.given(model, 0)))
    if model.likelihood != "none":
        assert np.isfinite(model.log_likelihood(images, **given)).all()
    with tempfile.TemporaryDirectory() as folder:
        version = model.export(Path(folder) / "model")
        served = tf.saved_model.load(str(version)).signatures
        graphs, specs = model.signatures(), exported.metadata(version)["signatures"]
        assert set(served) == set(graphs) == set(specs)
        for name, graph in graphs.items():
            made = exported.inputs_for(specs[name]["inputs"], model.num_classes, batch=2)
            inputs = {key: tf.constant(value) for key, value in made.items()}
            wanted, found = graph(*inputs.values()), served[name](**inputs)
            assert set(found) == set(wanted)
            for key, value in wanted.items():
                np.testing.assert_array_equal(found[key], value, err_msg=f"{name}, {key}")


def test_every_argument_has_values():
    drawn_together = {
        *("image_shape", "filters", "generator_filters", "decoder_filters"),
        *("pixel_distribution", "num_levels", "token_shape", "orders", "attention_heads"),
        *("groups", "group_channels", "mixing", "members"),
    }
    for family in FAMILIES.values():
        missing = set(laws.constructor_arguments(family)) - set(VALUES) - drawn_together
        assert not missing, f"{family.__name__}: no values for {missing}"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_random_arguments(family):
    property_of(family, -(-CASES // len(FAMILIES)))()


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
def test_many_random_arguments(family):
    property_of(family, -(-NIGHTLY_CASES // len(FAMILIES)))()
