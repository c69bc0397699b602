"""A recipe: all that a training needs, as data.

A recipe is a JSON file with the fields of `Recipe`; no code branches on a recipe's name.
"""

import dataclasses
import difflib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from tfgen.files import NOT_JSON

__all__ = ["Recipe"]


PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


# field: (what it must be, whether a value is that); None is written null in a recipe's file.
_RULES = {
    "family": ("be a string", lambda v: isinstance(v, str)),
    "model": ("be an object of constructor arguments", lambda v: isinstance(v, dict)),
    "data": ("be a string", lambda v: isinstance(v, str)),
    "size": (
        "be a positive integer, a list of two, or null",
        lambda v: (
            v is None
            or _whole(v, 1)
            or (isinstance(v, (list, tuple)) and len(v) == 2 and all(_whole(x, 1) for x in v))
        ),
    ),
    "skip_bad": ("be true or false", lambda v: isinstance(v, bool)),
    "description": ("be a string", lambda v: isinstance(v, str)),
    "batch_size": ("be a whole number, at least 1", lambda v: _whole(v, 1)),
    "epochs": ("be a whole number, at least 1", lambda v: _whole(v, 1)),
    "learning_rate": ("be positive", lambda v: _number(v) and v > 0),
    "learning_rates": (
        "be an object of positive numbers",
        lambda v: isinstance(v, dict) and all(_number(x) and x > 0 for x in v.values()),
    ),
    "betas": (
        "be two numbers in [0, 1)",
        lambda v: (
            isinstance(v, (list, tuple))
            and len(v) == 2
            and all(_number(x) and 0 <= x < 1 for x in v)
        ),
    ),
    "warmup_steps": ("be a whole number, at least 0", lambda v: _whole(v, 0)),
    "final_learning_rate": ("lie in [0, 1]", lambda v: _number(v) and 0 <= v <= 1),
    "restarts": (
        "be a growing list of epochs, at least 1",
        lambda v: (
            isinstance(v, (list, tuple))
            and all(_whole(epoch, 1) for epoch in v)
            and all(a < b for a, b in itertools.pairwise(v))
        ),
    ),
    "clip_norm": ("be positive or null", lambda v: v is None or (_number(v) and v > 0)),
    "ema_momentum": ("lie in [0, 1)", lambda v: _number(v) and 0 <= v < 1),
    "shift": ("be a whole number, at least 0", lambda v: _whole(v, 0)),
    "patience": ("be a whole number, at least 1, or null", lambda v: v is None or _whole(v, 1)),
    "jit_compile": ("be true or false", lambda v: isinstance(v, bool)),
    "precision": (
        f"be one of {', '.join(PRECISIONS)}",
        lambda v: isinstance(v, str) and v in PRECISIONS,
    ),
    "initial": ("be a string or null", lambda v: v is None or isinstance(v, str)),
    "freeze": (
        "be a list of strings",
        lambda v: isinstance(v, (list, tuple)) and all(isinstance(x, str) for x in v),
    ),
    "lora": (
        "be an object of whole numbers, at least 1",
        lambda v: isinstance(v, dict) and all(_whole(x, 1) for x in v.values()),
    ),
    "learning_rate_factors": (
        "be an object of positive numbers",
        lambda v: isinstance(v, dict) and all(_number(x) and x > 0 for x in v.values()),
    ),
    "seed": ("be a whole number in [0, 2^32)", lambda v: _whole(v, 0) and v < 2**32),
    "figures": (
        "be a list of objects",
        lambda v: isinstance(v, list) and all(isinstance(figure, dict) for figure in v),
    ),
}


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
        betas: Adam's two momenta.
        warmup_steps: Steps of linear growth up to the peak.
        final_learning_rate: Fraction of the peak that the schedule ends at.
        restarts: Epochs after which the cosine starts again at its peak, all before `epochs`
            (Loshchilov & Hutter, "SGDR", 2017).
        clip_norm: Bound on the global norm of the gradient; None leaves it.
        ema_momentum: Momentum of the averaged weights, warmed up; 0 turns averaging off.
        shift: Largest random shift of a training image, in pixels.
        patience: Epochs without a better validation loss before stopping; None never stops early.
            The weights of the best epoch are kept either way.
        jit_compile: Whether XLA compiles the step; faster for some networks, slower for others.
        precision: "float32"; "mixed_bfloat16" or "mixed_float16" compute in 16 bits on float32
            weights, the latter with the loss scaled so that gradients do not vanish.
        initial: Entry or folder whose weights the training starts from; those that do not fit
            start anew and are named. None starts all of them anew.
        freeze: Parts or weights that do not train (see `tfgen.tuning`), e.g. ["encoder"].
        lora: Ranks of low-rank adapters by part, e.g. {"decoder": 4}; what they adapt is frozen.
        learning_rate_factors: Factors on the learning rate by part, e.g. {"encoder": 0.1}; the
            last one that holds for a weight counts.
        seed: Seed of the data's order, the noise and the initial weights.
        figures: What `tfgen evaluate` measures, a list of {"metric": name, **arguments}.

    Raises:
        ValueError: A value out of its range.
    """

    family: str
    model: dict[str, Any]
    data: str
    size: int | tuple[int, int] | None = None
    skip_bad: bool = False
    description: str = ""
    batch_size: int = 100
    epochs: int = 10
    learning_rate: float = 1e-3
    learning_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 200
    final_learning_rate: float = 0.01
    restarts: tuple[int, ...] = ()
    clip_norm: float | None = None
    ema_momentum: float = 0.999
    shift: int = 0
    patience: int | None = None
    jit_compile: bool = True
    precision: str = "float32"
    initial: str | None = None
    freeze: tuple[str, ...] = ()
    lora: dict[str, int] = dataclasses.field(default_factory=dict)
    learning_rate_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0
    figures: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        for name, (rule, holds) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise ValueError(f"recipe: {name} must {rule}; received {value!r}.")
        for name in ("model", "figures"):  # as they come back from the file: lists for tuples
            try:
                object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))
            except (TypeError, ValueError) as error:
                raise ValueError(f"recipe: {name} must be plain data ({error}).") from error
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        for name in ("betas", "restarts", "freeze"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists only
        if "dtype" in self.model:
            raise ValueError(
                "recipe: model must not hold dtype; received "
                f"{self.model['dtype']!r}. Write it as precision."
            )
        if self.restarts and self.restarts[-1] >= self.epochs:
            raise ValueError(
                f"recipe: restarts must lie before the end, epochs={self.epochs}; "
                f"received {self.restarts!r}."
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Builds a recipe; raises ValueError for an unknown or missing key, naming it.

        >>> Recipe.from_dict({"family": "VAE", "model": {}, "data": "digits"}).batch_size
        100
        """
        if not isinstance(values, dict):
            raise ValueError(f"recipe must be a JSON object; received {type(values).__name__}.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"recipe: unknown key {key!r}.{hint} Known keys: {', '.join(fields)}."
                )
        for key in ("family", "model", "data"):
            if key not in values:
                raise ValueError(f"recipe: the key {key!r} is required.")
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Reads a recipe from a JSON file; raises ValueError if it is none."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        except NOT_JSON as error:
            raise ValueError(f"recipe {path} is not valid JSON: {error}.") from error
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns the recipe as the text of its file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"
