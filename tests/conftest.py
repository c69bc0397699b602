"""All families in tiny configurations, for the tests of the contract."""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import laws
import pytest
import tensorflow as tf
from serving_support import repository, server  # noqa: F401, fixtures

from tfgen import families

# For processes that tests start, as pyproject.toml has it for the tests.
PATHS = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, PATHS))

GREY, COLOUR = (8, 8, 1), (4, 6, 3)
TINY = {"latent_dim": 2, "filters": (4,), "dense_units": 8}
PIXEL = {"filters": 4, "num_blocks": 1, "head_units": 4, "kernel_size": (1, 3)}
BINARY = {"num_levels": 2, "pixel_distribution": "bernoulli"}
COLOURED = {
    "image_shape": (3, 4, 3),
    "num_levels": 4,
    "pixel_distribution": "categorical",
    "fourier_features": 2,
    **PIXEL,
}

# Each family in a few configurations that together reach every branch. A new family needs an
# entry here, and then every law of test_contract.py holds for it.
CONFIGURATIONS = {
    "AutoEncoder": {
        "squared_error": {"image_shape": GREY, **TINY},
        "denoising_colour": {
            "image_shape": COLOUR,
            "num_levels": 4,
            "pixel_distribution": "categorical",
            "noise_std": 0.3,
            **TINY,
        },
        "dense": {"image_shape": (5, 3, 3), **TINY, "filters": ()},
    },
    "HierarchicalVAE": {
        "bernoulli": {
            "image_shape": GREY,
            "top_dim": 2,
            "filters": (4,),
            "groups": (2,),
            "group_channels": (1,),
            "dense_units": 8,
            "pixel_distribution": "bernoulli",
            "num_levels": 2,
        },
        "two_scales": {
            "image_shape": GREY,
            "top_dim": 2,
            "filters": (4, 6),
            "groups": (1, 1),
            "group_channels": (1, 2),
            "dense_units": 8,
            "num_mixtures": 2,
            "prior": "continuous_flow",
            "prior_units": 5,
            "prior_steps": 3,
            "prior_tail": 0.2,
        },
        "conditional_colour_flow": {
            "image_shape": COLOUR,
            "top_dim": 3,
            "filters": (4,),
            "groups": (2,),
            "group_channels": (1,),
            "mixing": (True,),
            "dense_units": 8,
            "dropout": 0.1,
            "num_mixtures": 2,
            "prior": "flow",
            "prior_components": 2,
            "prior_units": 6,
            "prior_tail": 0.2,
            "candidates": 3,
            "critic_units": 5,
            "free_bits": 0.1,
            "num_classes": 3,
        },
    },
    "VAE": {
        "mixture": {"image_shape": GREY, "num_mixtures": 2, **TINY},
        "flow_importance": {
            "image_shape": GREY,
            "num_levels": 2,
            "pixel_distribution": "bernoulli",
            "prior": "flow",
            "prior_components": 2,
            "num_importance_samples": 3,
            **TINY,
        },
        "conditional_colour": {
            "image_shape": COLOUR,
            "num_levels": 4,
            "pixel_distribution": "categorical",
            "prior": "flow",
            "prior_components": 2,
            "prior_units": 5,
            "num_classes": 3,
            **TINY,
        },
        "conditional_continuous": {
            "image_shape": GREY,
            "num_mixtures": 2,
            "prior": "continuous_flow",
            "prior_units": 5,
            "prior_steps": 3,
            "prior_tail": 0.2,
            "num_importance_samples": 2,
            "num_classes": 3,
            **TINY,
        },
        "vamp_warmup": {
            "image_shape": GREY,
            "pixel_distribution": "gaussian",
            "prior": "vamp",
            "prior_components": 3,
            "kl_warmup_steps": 10,
            "beta": 0.5,
            "num_classes": 2,
            **TINY,
        },
        "conditional_dense": {
            "image_shape": (5, 3, 1),
            "num_mixtures": 2,
            "num_classes": 3,
            **TINY,
            "filters": (),
        },
    },
    "GAN": {
        "dcgan": {"image_shape": GREY, "r1": 0.1, **TINY},
        "residual_spectral": {
            "image_shape": COLOUR,
            "num_levels": 4,
            "num_blocks": 1,
            "spectral_normalization": True,
            "objective": "hinge",
            "discriminator_steps": 2,
            "num_classes": 3,
            "candidates": 3,
            **TINY,
        },
        "wasserstein": {"image_shape": GREY, "objective": "wasserstein_gp", **TINY},
        "modulated_augmented": {
            "image_shape": COLOUR,
            "network": "residual",
            "num_blocks": 1,
            "augment": True,
            "r1": 0.1,
            "num_classes": 3,
            **TINY,
        },
    },
    "PixelCNN": {
        "gated": {"image_shape": (4, 5, 1), **BINARY, **PIXEL},
        "tokens_orders": {
            "image_shape": GREY,
            "token_shape": (2, 4),
            "orders": 4,
            "num_classes": 2,
            "dropout": 0.2,
            **BINARY,
            **PIXEL,
        },
        "mixture_colour": {"image_shape": (3, 4, 3), "num_mixtures": 2, **PIXEL},
        "residual_colour": {
            "image_shape": (3, 4, 3),
            "block": "residual",
            "attention_heads": 2,
            "num_levels": 4,
            "pixel_distribution": "categorical",
            "fourier_features": 2,
            "num_classes": 3,
            **PIXEL,
        },
        "levels_in_tokens": {
            "image_shape": (4, 4, 1),
            "token_shape": (2, 2),
            "num_levels": 5,
            "pixel_distribution": "categorical",
            "fourier_features": 2,
            **PIXEL,
        },
        "guided_tokens": {
            "image_shape": (4, 4, 1),
            "token_shape": (2, 2),
            "num_levels": 5,
            "pixel_distribution": "categorical",
            "attention_heads": 2,
            "num_classes": 3,
            "guidance": 0.5,
            "dropout": 0.4,
            **PIXEL,
        },
    },
    "PixelEnsemble": {
        "hidden_class": {
            "members": [
                {"family": "PixelCNN", "config": {"image_shape": (4, 5, 1), **BINARY, **PIXEL}},
                {
                    "family": "PixelRNN",
                    "config": {"image_shape": (4, 5, 1), "num_classes": 3, **BINARY, **PIXEL},
                },
            ],
        },
        "told_colour": {
            "members": [
                {"family": "PixelCNN", "config": {**COLOURED, "num_classes": 3}},
                {"family": "PixelCNN", "config": {**COLOURED, "num_classes": 3, "num_blocks": 2}},
                {"family": "PixelCNN", "config": {**COLOURED, "attention_heads": 2}},
            ],
            "num_classes": 3,
        },
        "hidden_class_patterns": {
            "members": [
                {
                    "family": "PixelCNN",
                    "config": {
                        "image_shape": GREY,
                        "token_shape": (2, 4),
                        "num_classes": 2,
                        "dropout": 0.2,
                        "block": block,
                        **BINARY,
                        **PIXEL,
                    },
                }
                for block in ("gated", "residual")
            ],
        },
    },
    "PixelRNN": {
        "diagonal": {"image_shape": (4, 5, 1), **BINARY, **PIXEL},
        "diagonal_colour": {"image_shape": (3, 4, 3), "num_mixtures": 2, "dropout": 0.2, **PIXEL},
        "row_tokens": {
            "image_shape": (4, 8, 1),
            "cell": "row_lstm",
            "token_shape": (2, 4),
            "orders": 2,
            "num_classes": 2,
            **BINARY,
            **PIXEL,
        },
        "guided_row": {
            "image_shape": (4, 4, 1),
            "cell": "row_lstm",
            "token_shape": (2, 2),
            "num_classes": 2,
            "guidance": 1.5,
            **BINARY,
            **PIXEL,
        },
    },
}


def image_shape(arguments: dict) -> tuple[int, int, int]:
    """The shape of the images of a configuration; an ensemble has that of its members."""
    first = arguments["members"][0]["config"] if "members" in arguments else arguments
    return tuple(first["image_shape"])


# The families of tfgen itself; a test may register more.
FAMILIES = families.known()


VARIED_PIXEL = {
    "image_shape": (4, 8, 1),
    "filters": 3,
    "num_blocks": 1,
    "kernel_size": (2, 5),
    "head_units": 5,
    "orders": 2,
    "pixel_distribution": "bernoulli",
    "num_levels": 2,
    "num_mixtures": 2,
    "dropout": 0.25,
    "num_classes": 5,
    "guidance": 1.5,
    "seed": 11,
}
# No model can have both.
TOKENS = {"token_shape": (2, 2), "fourier_features": 0}
FOURIER = {"token_shape": (1, 1), "fourier_features": 3}
# A value other than the default for every argument of every constructor, in one dict or several.
VARIED = {
    "HierarchicalVAE": [
        {
            "image_shape": (8, 4, 3),
            "top_dim": 3,
            "filters": (4, 6),
            "groups": (2, 1),
            "group_channels": (3, 2),
            "mixing": (False, True),
            "num_blocks": 2,
            "dense_units": 7,
            "dropout": 0.25,
            "pixel_distribution": "gaussian",
            "num_levels": 17,
            "num_mixtures": 2,
            "prior": "flow",
            "prior_components": 3,
            "prior_units": 5,
            "prior_steps": 4,
            "prior_tail": 0.25,
            "candidates": 2,
            "selectivity": 2.5,
            "critic_units": 4,
            "beta": 0.5,
            "kl_warmup_steps": 3,
            "free_bits": 1e3,
            "num_classes": 5,
            "seed": 11,
        },
    ],
    "AutoEncoder": [
        {
            "image_shape": (8, 4, 3),
            "latent_dim": 3,
            "filters": (4, 6),
            "num_blocks": 2,
            "dense_units": 7,
            "pixel_distribution": "discretized_logistic_mixture",
            "num_levels": 17,
            "num_mixtures": 2,
            "noise_std": 0.25,
            "seed": 11,
        }
    ],
    "VAE": [
        {
            "image_shape": (8, 4, 3),
            "latent_dim": 3,
            "filters": (4, 6),
            "decoder_filters": (5,),
            "num_blocks": 0,
            "decoder_blocks": 2,
            "dense_units": 7,
            "pixel_distribution": "categorical",
            "num_levels": 17,
            "num_mixtures": 2,
            "prior": "vamp",
            "prior_components": 4,
            "prior_units": 6,
            "prior_steps": 5,
            "prior_tail": 0.25,
            "beta": 0.75,
            "kl_warmup_steps": 9,
            "num_importance_samples": 2,
            "num_classes": 5,
            "seed": 11,
        }
    ],
    "GAN": [
        {
            "image_shape": (8, 4, 3),
            "latent_dim": 3,
            "filters": (4, 6),
            "generator_filters": (5, 3),
            "network": "residual",
            "num_blocks": 1,
            "dense_units": 7,
            "spectral_normalization": True,
            "objective": "wasserstein_gp",
            "gradient_penalty": 5.0,
            "r1": 0.5,
            "augment": True,
            "discriminator_steps": 2,
            "ema_momentum": 0.9,
            "candidates": 3,
            "selectivity": 2.5,
            "num_levels": 17,
            "num_classes": 5,
            "seed": 11,
        }
    ],
    "PixelCNN": [
        {"block": "residual", "attention_heads": 2, **VARIED_PIXEL, **x} for x in (TOKENS, FOURIER)
    ],
    "PixelRNN": [{"cell": "row_lstm", **VARIED_PIXEL, **x} for x in (TOKENS, FOURIER)],
}
# An ensemble keeps whole configurations of its members, as JSON holds them, but its own guidance.
_MEMBER = {k: v for k, v in VARIED["PixelCNN"][0].items() if k != "guidance"} | {"orders": 1}
VARIED["PixelEnsemble"] = [
    {
        "members": 2 * ({"family": "PixelCNN", "config": json.loads(json.dumps(_MEMBER))},),
        "num_classes": 5,
        "guidance": 1.5,
        "seed": 11,
    }
]


@dataclasses.dataclass(frozen=True)
class Case:
    """A family in one configuration; calling it builds a model of its own."""

    family: str
    name: str

    @property
    def arguments(self) -> dict:
        return CONFIGURATIONS[self.family][self.name]

    def __call__(self, **changes) -> keras.Model:
        keras.utils.set_random_seed(1)
        return families.find(self.family)(**{"seed": 5, **self.arguments, **changes})

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    @property
    def is_first(self) -> bool:
        """Whether this is the family's first configuration, the one that the fast run tests."""
        return self.name == next(iter(CONFIGURATIONS[self.family]))


def fast_or_slow(cases: Iterable[Case]) -> list:
    """Parameters of a test: the first configuration of each family is fast, the others slow."""
    return [
        pytest.param(case, id=str(case), marks=() if case.is_first else pytest.mark.slow)
        for case in cases
    ]


FITTED_STEPS = 90
CASES = [Case(f, name) for f in FAMILIES for name in CONFIGURATIONS.get(f, {})]


def pytest_configure(config: pytest.Config) -> None:
    """Without slow tests, graphs run as traced: optimising them takes longer than running them."""
    if "not slow" in config.option.markexpr:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Resolves `slow_except`."""
    for item in items:
        call = getattr(item, "callspec", None)
        if mark := item.get_closest_marker("slow_except"):  # a test's own, before its module's
            own = call.id if call else item.name
            if not any(fnmatch.fnmatchcase(own, pattern) for pattern in mark.args):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def fixed_initial_weights() -> None:
    """Models that a test builds begin the same in every run."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session", params=fast_or_slow(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """Every family in every configuration, as something that builds models."""
    return request.param


@pytest.fixture(scope="session")
def fitted(case: Case) -> keras.Model:
    """The case's model, fitted to four images; `fitted.history` holds the losses.

    Tracing is what costs, so all tests that leave a model as it is share this one. A GAN takes few
    steps: it has no loss to lower, and many steps on four images make all its samples alike.
    """
    model = laws.randomised(case())
    labels = laws.labels_for(model, 4)
    steps = FITTED_STEPS // 3 if "loss" in model.loss_names else 1
    laws.fit_quickly(model, laws.images_for(model, 4), labels, steps=steps)
    return model


FIRST = [next(case for case in CASES if case.family == name) for name in FAMILIES]
CONDITIONAL = [
    next(case for case in CASES if case.family == name and case.arguments.get("num_classes"))
    for name in {case.family: None for case in CASES if case.arguments.get("num_classes")}
]


FIRST_AND_CONDITIONAL = [pytest.param(case, id=case.family) for case in FIRST] + [
    pytest.param(case, id=f"{case.family}-conditional", marks=pytest.mark.slow)
    for case in CONDITIONAL
    if case not in FIRST
]


@pytest.fixture(scope="session", params=[pytest.param(case, id=case.family) for case in FIRST])
def first_case(request: pytest.FixtureRequest) -> Case:
    """Every family in its first configuration."""
    return request.param
