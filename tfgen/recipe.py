"""A recipe: all that a training needs, as data.

Its JSON file holds the fields of `Recipe` that differ from their defaults; no code branches on its
name.
"""

import dataclasses
import functools
import itertools
import json
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tfgen.files import NOT_JSON, json_text
from tfgen_command.entries import nearest

__all__ = ["Recipe", "Stage"]

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# What a later stage may change; the rest is the recipe's.
STAGE_KEYS = (
    *("trainable", "batch_size", "epochs", "learning_rate", "learning_rates", "betas"),
    *("warmup_steps", "final_fraction", "restart_epochs", "clip_norm", "ema_momentum"),
    *("max_shift", "mirror", "patience", "jit_compile"),
)


# Rules ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be; it stands next to its field.

    Args:
        text: The rule in words, after "must".
        holds: Whether a value keeps it.
    """

    text: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Rule":
        """Returns the rule that also lets None pass."""
        return Rule(f"{self.text}, or null", lambda v: v is None or self.holds(v))


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _integer(least: int) -> Rule:
    return Rule(f"be an integer, at least {least}", lambda v: _is_integer(v, least))


def _list_of(text: str, holds: Callable[[Any], bool]) -> Rule:
    return Rule(
        f"be a list of {text}",
        lambda v: isinstance(v, (list, tuple)) and all(holds(x) for x in v),
    )


def _object_of(text: str, holds: Callable[[Any], bool]) -> Rule:
    return Rule(
        f"be an object of {text}",
        lambda v: isinstance(v, dict) and all(holds(x) for x in v.values()),
    )


def _growing(epochs: Iterable[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(epochs))


STRING = Rule("be a string", lambda v: isinstance(v, str))
BOOLEAN = Rule("be true or false", lambda v: isinstance(v, bool))
POSITIVE = Rule("be a positive number", lambda v: _is_number(v) and v > 0)
FRACTION = Rule("be a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)
MOMENTUM = Rule("be a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1)
MOMENTA = Rule(
    "be two numbers in [0, 1)",
    lambda v: isinstance(v, (list, tuple)) and len(v) == 2 and all(map(MOMENTUM.holds, v)),
)
ARGUMENTS = Rule("be an object of constructor arguments", lambda v: isinstance(v, dict))
STRINGS = _list_of("strings", STRING.holds)
OBJECTS = _list_of("objects", lambda v: isinstance(v, dict))
POSITIVES = _object_of("positive numbers", POSITIVE.holds)
RANKS = _object_of("integers, at least 1", lambda v: _is_integer(v, 1))
EPOCHS = Rule(
    "be an increasing list of epochs, at least 1",
    lambda v: (
        isinstance(v, (list, tuple)) and all(_is_integer(epoch, 1) for epoch in v) and _growing(v)
    ),
)
SIZE = Rule(
    "be a positive integer, a list of two, or null",
    lambda v: (
        v is None
        or _is_integer(v, 1)
        or (isinstance(v, (list, tuple)) and len(v) == 2 and all(_is_integer(x, 1) for x in v))
    ),
)
PRECISION = Rule(
    f"be one of {', '.join(PRECISIONS)}", lambda v: isinstance(v, str) and v in PRECISIONS
)
SEED = Rule("be an integer in [0, 2^32)", lambda v: _is_integer(v, 0) and v < 2**32)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how; frozen, so that a run cannot drift from its file.

    Args:
        family: Name of the model class, e.g. "VAE".
        model: Constructor arguments of the family.
        data: Name or path for `tfgen.data`.
        size: Height and width, or one number for both, that every image is scaled to cover and
            cropped to; None reads images as they are.
        skip_bad: Leave out files of a folder that cannot be read, instead of stopping.
        description: One sentence for the card.
        batch_size: Images per step, over all replicas.
        epochs: Passes over the train split.
        learning_rate: Peak of Adam's cosine schedule.
        learning_rates: The same for one of several optimizers, by its name in the family's
            `compile`, e.g. {"discriminator_optimizer": 0.0004}.
        betas: Adam's beta_1 and beta_2.
        warmup_steps: Steps of linear warm-up to the peak, at most half of the first cycle.
        final_fraction: The learning rate at the end, as a fraction of its peak.
        restart_epochs: Epochs after which the cosine starts again at its peak, all before
            `epochs` (Loshchilov & Hutter, "SGDR", 2017).
        clip_norm: Bound on the gradient's global norm; None does not clip.
        ema_momentum: Momentum of the averaged weights, warmed up; 0 turns averaging off.
        max_shift: Largest random shift of a training image, in pixels.
        mirror: Flip each training image left to right with probability one half, drawn again
            every epoch. Validation, test and results see the images as they are.
        patience: Epochs without a better validation loss before stopping; None never stops early.
            The weights of the best epoch are kept either way; a GAN keeps the last ones.
        jit_compile: Whether XLA compiles the step; faster for some networks, slower for others.
        precision: "float32"; "mixed_bfloat16" or "mixed_float16" compute in 16 bits on float32
            weights, the latter with the loss scaled so that gradients do not vanish.
        init_from: Entry or folder whose weights the training starts from; those that do not fit
            start from scratch and are named. None starts all of them from scratch.
        freeze: Parts or weights that do not train (see `tfgen.tuning`), e.g. ["encoder"].
        lora: Ranks of low-rank adapters by part, e.g. {"decoder": 4}; what they adapt is frozen.
        learning_rate_scales: Factors on the learning rate by part, e.g. {"encoder": 0.1}; the
            last one that holds for a weight counts.
        stages: What follows once the model is trained: each stage trains some of its parts
            further, with the best weights so far and a new optimizer. It names them in
            `trainable`, as `freeze` does, and gives what else differs from the recipe, e.g.
            [{"trainable": ["coupling_*"], "epochs": 20, "batch_size": 512}].
        seed: Seed of the data's order, the noise and the initial weights.
        results: What `tfgen evaluate` measures, a list of {"metric": name, **arguments}.

    Raises:
        ValueError: A value out of its range.
    """

    family: Annotated[str, STRING]
    model: Annotated[dict[str, Any], ARGUMENTS]
    data: Annotated[str, STRING]
    size: Annotated[int | tuple[int, int] | None, SIZE] = None
    skip_bad: Annotated[bool, BOOLEAN] = False
    description: Annotated[str, STRING] = ""
    batch_size: Annotated[int, _integer(1)] = 100
    epochs: Annotated[int, _integer(1)] = 10
    learning_rate: Annotated[float, POSITIVE] = 1e-3
    learning_rates: Annotated[dict[str, float], POSITIVES] = dataclasses.field(default_factory=dict)
    betas: Annotated[tuple[float, float], MOMENTA] = (0.9, 0.999)
    warmup_steps: Annotated[int, _integer(0)] = 200
    final_fraction: Annotated[float, FRACTION] = 0.01
    restart_epochs: Annotated[tuple[int, ...], EPOCHS] = ()
    clip_norm: Annotated[float | None, POSITIVE.or_null()] = None
    ema_momentum: Annotated[float, MOMENTUM] = 0.999
    max_shift: Annotated[int, _integer(0)] = 0
    mirror: Annotated[bool, BOOLEAN] = False
    patience: Annotated[int | None, _integer(1).or_null()] = None
    jit_compile: Annotated[bool, BOOLEAN] = True
    precision: Annotated[str, PRECISION] = "float32"
    init_from: Annotated[str | None, STRING.or_null()] = None
    freeze: Annotated[tuple[str, ...], STRINGS] = ()
    lora: Annotated[dict[str, int], RANKS] = dataclasses.field(default_factory=dict)
    learning_rate_scales: Annotated[dict[str, float], POSITIVES] = dataclasses.field(
        default_factory=dict
    )
    stages: Annotated[list[dict[str, Any]], OBJECTS] = dataclasses.field(default_factory=list)
    seed: Annotated[int, SEED] = 0
    results: Annotated[list[dict[str, Any]], OBJECTS] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        for name, rule in rules().items():
            value = getattr(self, name)
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value := value.item())
            if not rule.holds(value):
                raise ValueError(f"recipe: {name} must {rule.text}; received {value!r}.")
        copied = ("model", "stages", "results", "learning_rates", "lora", "learning_rate_scales")
        for name in copied:  # as they come back: lists for tuples
            try:
                object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))
            except (TypeError, ValueError) as error:
                raise ValueError(f"recipe: {name} must be plain data ({error}).") from error
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        for name in ("betas", "restart_epochs", "freeze"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only
        if "dtype" in self.model:
            raise ValueError(
                "recipe: model must not hold dtype; received "
                f"{self.model['dtype']!r}. Write it as precision."
            )
        if self.restart_epochs and self.restart_epochs[-1] >= self.epochs:
            raise ValueError(
                f"recipe: restart_epochs must lie before the end, epochs={self.epochs}; "
                f"received {self.restart_epochs!r}."
            )
        self.plan()  # so that a bad stage is found here

    def plan(self) -> "list[Stage]":
        """Returns what is trained in turn: the recipe itself, then its stages."""
        first = dataclasses.replace(self, stages=[]) if self.stages else self
        return [Stage(first), *(_stage(self, i, given) for i, given in enumerate(self.stages))]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Builds a recipe; raises ValueError for an unknown or missing key, naming it.

        >>> Recipe.from_dict({"family": "VAE", "model": {}, "data": "digits"}).batch_size
        100
        """
        if not isinstance(values, dict):
            raise ValueError(f"recipe must be a JSON object; received {type(values).__name__}.")
        _check_keys("recipe", values, rules())
        for key in ("family", "model", "data"):
            if key not in values:
                raise ValueError(f"recipe: the key {key!r} is required.")
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Reads a recipe from a JSON file; raises ValueError if it does not hold one."""
        path = Path(path).expanduser()
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        except NOT_JSON as error:
            raise ValueError(f"recipe {path} is not valid JSON: {error}.") from error
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain data."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns the text of the recipe's file: the fields that differ from their defaults."""
        values, defaults = self.to_dict(), Recipe(self.family, self.model, self.data).to_dict()
        required = ("family", "model", "data")
        kept = {k: v for k, v in values.items() if k in required or v != defaults[k]}
        return json_text(kept)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a recipe's plan.

    Args:
        recipe: How to train in this stage; it has no stages itself.
        trainable: The parts that train; None for all that the recipe does not freeze.
    """

    recipe: Recipe
    trainable: tuple[str, ...] | None = None


def _stage(recipe: Recipe, index: int, given: dict[str, Any]) -> Stage:
    where = f"recipe: stages[{index}]"
    _check_keys(where, given, STAGE_KEYS)
    changes = {key: value for key, value in given.items() if key != "trainable"}
    trainable = given.get("trainable")
    if not STRINGS.holds(trainable) or not trainable:
        raise ValueError(
            f"{where}: trainable must be a list of parts to train, at least one; "
            f"received {trainable!r}."
        )
    try:
        # Restarts are counted within a stage.
        defaults = {"stages": [], "restart_epochs": ()}
        return Stage(dataclasses.replace(recipe, **(defaults | changes)), tuple(trainable))
    except ValueError as error:
        raise ValueError(str(error).replace("recipe", where, 1)) from error


@functools.cache
def rules() -> dict[str, Rule]:
    """Returns the rule of each field of `Recipe`."""
    hints = typing.get_type_hints(Recipe, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(Recipe)}


def _check_keys(where: str, values: dict[str, Any], known: Iterable[str]) -> None:
    """Raises ValueError for an unknown key, with the nearest known one."""
    for key in values:
        if key not in known:
            raise ValueError(
                f"{where}: unknown key {key!r}.{nearest(key, known, 1)} Known keys: "
                f"{', '.join(known)}."
            )
