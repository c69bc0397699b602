"""PixelEnsemble: the mean of its members, with a class that it is told or that is hidden."""

import json
import shutil

import laws
import numpy as np
import pytest
import tensorflow as tf
from pixel_networks import (
    BINARY,
    SMALL,
    SPACES,
    draws_are_as_likely_as_it_says,
    every_image,
    log_probs,
    lower_rows_follow_the_upper_ones,
)
from test_pixel_sampling import naive_sample

from tfgen import VAE, PixelCNN, PixelEnsemble, PixelRNN, presets, zoo
from tfgen.models import endpoints
from tfgen.models.sampler import Sampler
from tfgen_command.entries import read_metadata


def members_of(space: str, scale: float = 0.5) -> list:
    """Two models that know three classes and one that knows none, with random weights."""
    given = {**SMALL, **SPACES[space]}
    members = [
        PixelCNN(**given, num_classes=3, attention_heads=2),
        PixelRNN(**given),
        PixelCNN(**given, num_classes=3, block="residual"),
    ]
    return [laws.randomised(member, scale, seed) for seed, member in enumerate(members)]


def probabilities(model, images) -> np.ndarray:
    """p(x), float64 (images,)."""
    return np.exp(log_probs(model, images))


@pytest.fixture(scope="module", params=SPACES)
def hidden(request) -> PixelEnsemble:
    """An ensemble that knows classes and is told none."""
    return PixelEnsemble(members_of(request.param))


def test_each_pixel_has_the_mean_of_the_members_probabilities():
    members = members_of("levels")
    model, labels = PixelEnsemble(members, num_classes=3), np.array([0, 2, 1, 1])
    images = laws.images_for(model, 4)

    def of(network):
        given = (images,) if network.num_classes is None else (images, labels)
        return tf.nn.softmax(tf.cast(network(*given), tf.float64)).numpy()

    expected = np.mean([of(member) for member in members], 0)
    np.testing.assert_allclose(of(model), expected, rtol=1e-5)


def test_a_hidden_class_is_the_mean_over_the_classes(hidden):
    told = PixelEnsemble(hidden.networks, num_classes=3)
    images = laws.images_for(hidden, 6)
    each = [np.exp(told.log_likelihood(images, labels=label, batch_size=6)) for label in range(3)]
    assert np.ptp(each, 0).min() > 1e-4 * np.max(each), "the classes are all alike"
    np.testing.assert_allclose(probabilities(hidden, images), np.mean(each, 0), rtol=1e-4)


def test_probabilities_of_a_hidden_class_sum_to_one(hidden):
    assert probabilities(hidden, every_image(hidden)).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_map_holds_what_each_pixel_adds_to_those_before(hidden):
    """log p(x_1, ..., x_i) of every start, from the sum over all images that begin so."""
    images = every_image(hidden)
    whole = probabilities(hidden, images)
    grid = hidden.token_grid

    def in_turn(values):
        return grid.to_tokens(tf.constant(values)).numpy().reshape(len(images), -1)

    pixels, found = in_turn(images), in_turn(hidden.log_likelihood_map(images))
    image = len(images) // 3
    starts = [(pixels[:, :n] == pixels[image, :n]).all(1) for n in range(pixels.shape[1] + 1)]
    reached = np.log([whole[start].sum() for start in starts])
    np.testing.assert_allclose(found[image], np.diff(reached), atol=1e-4)
    np.testing.assert_allclose(found.sum(1), np.log(whole), atol=1e-4)


def test_the_fast_sampler_equals_the_naive_one(hidden):
    seeds = hidden.image_seeds(12, 7)
    reading = hidden.picked_reading(seeds)
    assert len(set(reading.numpy())) == 3, "a class is never picked"
    np.testing.assert_array_equal(
        Sampler(hidden).draw(seeds, None, reading), naive_sample(hidden, seeds)[0]
    )


@pytest.mark.slow
def test_sampled_frequencies_are_the_likelihoods(hidden):
    draws_are_as_likely_as_it_says(hidden)


def test_completion_is_the_exact_conditional():
    """What follows the kept upper row, of which the class must be guessed first."""
    lower_rows_follow_the_upper_ones(PixelEnsemble(members_of("pixels", scale=1.0)))


def test_completions_score_no_more_images_at_once_than_a_likelihood():
    """A hidden class is chosen by the likelihoods of whole images, in each worker."""
    model, sizes = PixelEnsemble(members_of("pixels")), []
    model.num_workers = 8
    model._run = lambda name, given, size, *rest, **fixed: sizes.append(size)
    images = laws.images_for(model, 4000)
    model.complete(images, np.zeros((4000, *model.image_shape[:2], 1), bool), seed=0)
    assert sizes[0] * 8 <= endpoints.PER_PASS["log_likelihood_map"]


@pytest.mark.slow_except("pixels")
def test_a_completion_of_nothing_is_a_sample(hidden):
    nothing = np.zeros((5, *hidden.image_shape[:2], 1), bool)
    completed = hidden.complete(laws.images_for(hidden, 5), nothing, seed=3)
    np.testing.assert_array_equal(completed, hidden.sample(5, seed=3))


@pytest.mark.slow
def test_low_rank_adapters_train_and_are_kept(tmp_path):
    model = PixelEnsemble(members_of("pixels"))
    images = laws.images_for(model, 8)
    adapted = model.enable_lora(2, "member_0")
    assert adapted
    model.compile(jit_compile=False)
    before = model.log_likelihood(images)
    model.fit(images, epochs=3, verbose=0)
    after = model.log_likelihood(images)
    assert (after != before).any()
    for twin in (PixelEnsemble(model.networks), zoo.load(model.save_to_preset(tmp_path / "m"))):
        np.testing.assert_allclose(twin.log_likelihood(images), after, rtol=1e-5)


def test_each_member_has_dropout_of_its_own():
    config = {"image_shape": (2, 3, 1), "dropout": 0.5, **SMALL, **BINARY}
    model = PixelEnsemble([laws.randomised(PixelCNN(**config)) for _ in range(2)])
    levels, seeds = model.levels_of(tf.constant(laws.images_for(model, 5))), tf.range(5)
    tokens, seeds = model.token_grid.to_tokens(levels), tf.cast(seeds, tf.int64)
    one, other = (
        network.parameters_of(tokens, given)
        for network, given in zip(model.networks, model.conditions(5, None, 0, seeds), strict=True)
    )
    assert (one != other).numpy().any(), "equal networks dropped the same features"


def test_members_are_copied():
    members = members_of("pixels")
    model = PixelEnsemble(members)
    images = laws.images_for(model, 3)
    before = model.log_likelihood(images)
    laws.randomised(members[0])
    np.testing.assert_array_equal(model.log_likelihood(images), before)
    again = PixelEnsemble(model.networks)
    np.testing.assert_array_equal(again.log_likelihood(images), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: {"members": [a]}, "members must be a list of at least two models; received "),
        (lambda a, b: {"members": a}, "members must be a list of at least two models"),
        (lambda a, b: {"members": (x for x in (a, b))}, "members must be a list"),
        (
            lambda a, b: {"members": [a, {"family": "PixelCNN", "config": None}]},
            "members must be pixel models, or",
        ),
        (
            lambda a, b: {"members": [a, {"family": "PixelCNN", "config": {"filterz": 1}}]},
            "filterz",
        ),
        (lambda a, b: {"members": [a, 3]}, "members must be pixel models, or .*; received 3"),
        (lambda a, b: {"members": [a, PixelEnsemble([a, b])]}, "received a PixelEnsemble"),
        (
            lambda a, b: {"members": [a, VAE((8, 8, 1), filters=(4,))]},
            "must be PixelCNNs or PixelRNNs; received a VAE",
        ),
        (
            lambda a, b: {"members": [a, {"family": "PixelCN", "config": {}}]},
            "family must be one of .*'PixelCN'",
        ),
        (
            lambda a, b: {"members": [a, PixelCNN((4, 4, 1), **SMALL, **BINARY)]},
            r"members must have the same image_shape; received \[\(2, 3, 1\), \(4, 4, 1\)",
        ),
        (
            lambda a, b: {"members": [PixelCNN((4, 4, 1), **SMALL) for _ in range(2)]},
            "members must have a pixel_distribution of bernoulli or categorical.*mixture",
        ),
        (
            lambda a, b: {
                "members": [PixelCNN((4, 4, 1), orders=2, **SMALL, **BINARY) for _ in range(2)]
            },
            "members must read in one order; received orders=2",
        ),
        (
            lambda a, b: {"members": [a, PixelCNN((2, 3, 1), num_classes=5, **SMALL, **BINARY)]},
            r"members must know the same classes; received num_classes=\[3, 5\]",
        ),
        (
            lambda a, b: {"members": [a, b], "num_classes": 4},
            "num_classes must be that of a member; received 4, and the members know 3 classes",
        ),
        (
            lambda a, b: {"members": [b, b], "num_classes": 4},
            "received 4, and the members know no classes",
        ),
    ],
)
def test_members_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        PixelEnsemble(**change(*members_of("pixels")[:2]))


# Presets that name the weights of others


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two entries, and an ensemble of them that stores the weights of the first alone."""
    root, members = tmp_path_factory.mktemp("entries"), members_of("pixels")[:2]
    for name, member in zip("ab", members, strict=True):
        member.save_to_preset(root / name)
    model = PixelEnsemble([members[1], members[0]])
    presets.save(model, root / "both", members=["a"])
    return root, model


@pytest.fixture
def entries(saved, tmp_path):
    """A copy of them, which the test may spoil, and the ensemble, which it leaves as it is."""
    root, model = saved
    return shutil.copytree(root, tmp_path / "entries"), model


def test_an_ensemble_is_loaded_from_the_weights_of_others(entries):
    folder, model = entries
    loaded = zoo.load(folder / "both")
    for own, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    stored = json.loads((folder / "both" / "metadata.json").read_text())
    assert stored["members"] == {"a": zoo.info(folder / "a")["sha256"]}
    sizes = {name: (folder / name / presets.WEIGHTS).stat().st_size for name in ("b", "both")}
    assert sizes["both"] == sizes["b"]
    partly = zoo.load(folder / "both", "partial", num_classes=3)
    assert partly.num_classes == 3
    (folder / "elsewhere").symlink_to(folder / "both")
    zoo.load(folder / "elsewhere")
    whole = loaded.save_to_preset(folder / "whole")
    shutil.rmtree(folder / "a")
    zoo.load(whole)  # stands alone
    with pytest.raises(
        ValueError, match="'both' takes weights from 'a', which must lie next to it"
    ):
        zoo.load(folder / "both")


def test_a_member_that_is_not_the_one_is_refused(entries):
    folder, _ = entries
    laws.randomised(zoo.load(folder / "a")).save_to_preset(folder / "a")
    with pytest.raises(ValueError, match=r"a.model\.weights\.h5 is damaged or was changed"):
        zoo.load(folder / "both")
    (folder / "a" / presets.WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"a.model\.weights\.h5 is missing"):
        zoo.load(folder / "both")


def test_members_with_other_weights_are_not_stored(entries):
    folder, model = entries
    model.save_to_preset(folder / "whole")
    for names in ("a", ["a", "a"], ["../a"], [""], ["."], [".."]):
        with pytest.raises(ValueError, match="different names of presets next to more; received"):
            presets.save(model, folder / "more", members=names)
    for name in ("b", "whole"):
        with pytest.raises(ValueError, match=f"but the first, in their order; received {name}"):
            presets.save(model, folder / "more", members=[name])
    with pytest.raises(ValueError, match="for 0 networks"):
        presets.save(zoo.load(folder / "a"), folder / "more", members=["a"])
    assert not (folder / "more").exists()


@pytest.mark.parametrize(
    "members",
    [
        ["a"],
        {"a": "0"},
        {"a": None},
        *({name: "0" * 64} for name in ("../a", "", ".", "..")),
    ],
)
def test_members_that_are_none(tmp_path, members):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"sha256": "0" * 64, "members": {"a": "0" * 64}}))
    read_metadata(tmp_path)
    path.write_text(json.dumps({"sha256": "0" * 64, "members": members}))
    with pytest.raises(ValueError, match="entries with their sha256 in members"):
        read_metadata(tmp_path)
