"""Fine-tuning: weights by name, frozen parts, low-rank adapters, learning rates by part.

A weight's name is its path through the model, e.g. "encoder/stage_0_conv/kernel". It is the same
in every model of a configuration, whatever was built before, and a pattern stands for all weights
below it: "encoder" for the whole encoder, "*/stage_0_*" for the first stage of each network.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from tfgen import checks

__all__ = [
    "adapted",
    "adapted_name",
    "copy_weights",
    "enable_lora",
    "folded",
    "matching",
    "restart_adapters",
    "set_trainable",
    "values",
    "weights",
]

LORA_WEIGHTS = ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b")


def weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every weight by name; one that two networks share stands under both names.

    >>> from tfgen import AutoEncoder
    >>> list(weights(AutoEncoder((8, 8, 1), filters=(4,), num_blocks=0)))[:2]
    ['encoder/stage_0_conv/kernel', 'encoder/stage_0_conv/bias']
    """
    return dict(_walk(model, ""))


def _walk(layer: keras.Layer, prefix: str) -> Iterator[tuple[str, keras.Variable]]:
    children = list(_children(layer, prefix))
    inner = {id(v) for child, _ in children for v in child.variables}
    seen: dict[str, int] = {}
    for variable in layer.variables:
        if id(variable) not in inner:
            name = re.sub(r"^variable_\d+$", "variable", variable.name)  # Keras numbers these, too
            place = seen[name] = seen.get(name, -1) + 1
            yield f"{prefix}{name}_{place}" if place else prefix + name, variable
    for child, below in children:
        yield from _walk(child, below)


def _children(layer: keras.Layer, prefix: str) -> Iterator[tuple[keras.Layer, str]]:
    """Yields the layers right below one, each with what its weights' names begin with."""
    seen: dict[str, int] = {}
    for child in layer._flatten_layers(include_self=False, recursive=False):
        if isinstance(layer, keras.layers.Wrapper):  # a wrapper goes by the name of what it wraps
            yield child, prefix
            continue
        name = _own_name(child)
        place = seen[name] = seen.get(name, -1) + 1
        yield child, f"{prefix}{name}_{place}/" if place else f"{prefix}{name}/"


def _own_name(layer: keras.Layer) -> str:
    """A layer's name without the number that Keras counts up with each model that is built."""
    if isinstance(layer, keras.layers.Wrapper):
        return _own_name(layer.layer)
    # As Keras names a class: Conv2D is conv2d, LayerNormalization layer_normalization.
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    plain = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    return re.sub(rf"^({plain})_\d+$", r"\1", layer.name)


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Returns the names that are, or lie below, one of the patterns.

    Raises:
        ValueError: A pattern that matches nothing.
    """
    names, found = list(names), []
    for pattern in patterns:
        hits = [name for name in names if _under(name, pattern)]
        if not hits:
            tops = sorted({name.split("/")[0] for name in names})
            raise ValueError(
                f"pattern {pattern!r} matches nothing in the model; its parts are "
                f"{', '.join(tops)}."
            )
        found += [name for name in hits if name not in found]
    return found


def _under(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatch(name, each) for each in (pattern, f"{pattern}/*"))


def lora_layers(model: keras.Model, patterns: Iterable[str]) -> dict[str, keras.Layer]:
    """Returns the layers under the patterns that offer low-rank adapters, by name."""
    found: dict[str, keras.Layer] = {}

    def walk(layer, prefix):
        if isinstance(layer, keras.layers.SpectralNormalization):
            return  # it writes into the kernel, which an adapter freezes
        for child, below in _children(layer, prefix):
            if not getattr(child, "lora_enabled", True):  # a nested model has no such attribute
                found.setdefault(below[:-1], child)
            walk(child, below)

    walk(model, "")
    chosen = [name for name in found if any(_under(name, pattern) for pattern in patterns)]
    # A shared layer goes by the first of its names.
    names = {id(found[name]): name for name in reversed(chosen)}
    return {name: found[name] for name in chosen if names[id(found[name])] == name}


def variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables of all layers, shared ones twice: far faster than `model.weights`."""
    return [
        variable
        for layer in model._flatten_layers()
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables)
    ]


def refuse_quantized(model: keras.Model) -> None:
    """Raises ValueError if a layer is quantised: samplers and presets know float kernels alone."""
    for layer in model._flatten_layers():
        if isinstance(layer.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
            raise ValueError(
                f"a model with a quantised layer cannot be run or saved; {layer.name!r} is "
                f"{layer.dtype_policy.name!r}. Load the model again."
            )


def set_trainable(model: keras.Model, patterns: Iterable[str], trainable: bool) -> list[str]:
    """Freezes the weights under the patterns, or lets those train again that were frozen here.

    Returns:
        The names of the weights that changed.

    Raises:
        ValueError: A pattern that matches nothing in the model.
    """
    held, frozen = weights(model), model.frozen
    # By variable: a shared one has two names.
    chosen = {id(held[name]) for name in matching(held, patterns)}
    names = [
        name
        for name, variable in held.items()
        if id(variable) in chosen and (name in frozen if trainable else variable.trainable)
    ]
    changed = {id(held[name]) for name in names}
    for layer in model._flatten_layers():
        if trainable and not layer.trainable and changed.intersection(map(id, layer.variables)):
            flags = [(variable, variable.trainable) for variable in layer.variables]
            layer.trainable = True  # also sets all of its variables, and of the layers below
            for variable, flag in flags:
                variable.trainable = flag
    for name in names:
        held[name].trainable = trainable
    return names


def enable_lora(model: keras.Model, rank: int, patterns: Iterable[str]) -> list[str]:
    """Gives every layer under the patterns that offers it a low-rank adapter; returns their names.

    Raises:
        ValueError: A rank below 1, a pattern that matches nothing in the model, or no layer under
            the patterns offers it.
    """
    checks.positive("rank", rank)
    matching(weights(model), patterns)
    layers = lora_layers(model, patterns)
    if not layers:
        raise ValueError(
            "patterns must name layers that offer low-rank adapters, such as dense ones and "
            f"convolutions; received {', '.join(patterns) or 'none'}. '*' names all."
        )
    for layer in layers.values():
        layer.enable_lora(rank)
    return sorted(layers)


def restart_adapters(model: keras.Model) -> None:
    """Draws the first half of adapters of 0, which no gradient would move."""
    for layer in model._flatten_layers():
        for name in ("lora_kernel_a", "lora_embeddings_a"):
            half = getattr(layer, name, None)
            if half is not None and not half.numpy().any():
                half.assign(keras.initializers.HeUniform(seed=0)(half.shape))


def adapted(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Returns the weights that have a low-rank adapter, by name, each with the adapter's change."""
    changed = {}
    for layer in model._flatten_layers():
        if getattr(layer, "lora_enabled", False):
            name = "kernel" if hasattr(layer, "kernel") else "embeddings"
            weight, scale = getattr(layer, f"_{name}"), layer.lora_alpha / layer.lora_rank
            a, b = (getattr(layer, f"lora_{name}_{half}") for half in "ab")
            # Not layer.kernel, which is rounded to the compute dtype.
            changed[id(weight)] = weight + scale * keras.ops.matmul(a, b)
    held = weights(model)
    return {name: changed[id(weight)] for name, weight in held.items() if id(weight) in changed}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns every weight's value by name, low-rank adapters folded into what they adapt."""
    found = {name: v.numpy() for name, v in weights(model).items()}
    for name, merged in adapted(model).items():
        found[name] = keras.ops.convert_to_numpy(merged)
    return {name: value for name, value in found.items() if name.split("/")[-1] not in LORA_WEIGHTS}


def adapted_name(name: str) -> str:
    """Returns the name of the weight that the adapter of a name changes; any other name as it is.

    >>> adapted_name("decoder/to_grid/lora_kernel_a")
    'decoder/to_grid/kernel'
    """
    path, slash, weight = name.rpartition("/")
    return f"{path}{slash}{weight.split('_')[1]}" if weight in LORA_WEIGHTS else name


def folded(names: Iterable[str]) -> list[str]:
    """Returns the names of weights as they are once saving has folded the adapters in.

    An adapter stands for what it changes where both of its halves are named.

    >>> folded(["a/bias", "a/lora_kernel_a", "a/lora_kernel_b", "b/lora_kernel_a"])
    ['a/bias', 'a/kernel']
    """
    names = set(names)
    halves = {name for name in names if adapted_name(name) != name}
    whole = {adapted_name(name) for name in halves if {f"{name[:-1]}a", f"{name[:-1]}b"} <= halves}
    return sorted(names - halves | whole)


def copy_weights(source: keras.Model, target: keras.Model) -> list[str]:
    """Copies the weights that both models have in one shape.

    Returns:
        One line for each weight of `target` that keeps its initial values, with the reason.

    Raises:
        ValueError: Not one weight fits.
    """
    given, kept, copied = values(source), [], set()
    own = weights(target)
    for name, variable in own.items():
        value = given.get(name)
        if value is not None and value.shape == tuple(variable.shape):
            variable.assign(value)
            copied.add(id(variable))
    for name, variable in own.items():
        if id(variable) not in copied:
            shape = tuple(variable.shape)
            reason = f"shape {shape}, stored {given[name].shape}" if name in given else "new"
            kept.append(f"{name} ({reason})")
            copied.add(id(variable))  # under its first name only
    if len(kept) == len({id(v) for v in own.values()}):
        raise ValueError(
            f"no weight of the {type(source).__name__} fits the {type(target).__name__}; "
            "initial weights must come from a model with a similar configuration."
        )
    return kept
