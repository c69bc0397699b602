"""Training on several devices with TensorFlow's own strategies.

A strategy keeps a copy of the model, a replica, on each device; each takes its part of the global
batch, and the gradients are summed. What must be right for that lives here: which part of a
batch is whose, who writes, and what all processes must agree on.
"""

import functools
import json
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfgen import checks

__all__ = [
    "STRATEGIES",
    "any_process",
    "apply_gradients",
    "broadcast",
    "images_before",
    "in_words",
    "is_chief",
    "make_strategy",
    "move_averages",
    "num_replicas",
    "num_workers",
    "objective",
    "share",
    "unscaled",
    "worker_index",
]

# That this process may use; not every system tells.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
STRATEGIES = ("none", "mirrored", "multi-worker", "tpu")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns TensorFlow's strategy of that name.

    Args:
        name: "none", one device; "mirrored", all devices of this process: GPUs, or logical CPUs;
            "multi-worker", the processes that the environment variable TF_CONFIG lists, each with
            its own devices; "tpu", the cores of the TPU that TPU_NAME names, or of this VM.

    Raises:
        ValueError: An unknown name, "none" within the scope of a strategy, or "multi-worker"
            without a TF_CONFIG that fits.
    """
    checks.one_of("strategy", name, STRATEGIES)
    if name != "none":
        return _made(name)
    if tf.distribute.has_strategy():
        raise ValueError("strategy 'none' must be asked for outside of a strategy's scope.")
    return tf.distribute.get_strategy()  # the default one, of one replica


def in_words() -> str:
    """Returns what TensorFlow finds to compute on, e.g. "1 GPU" or "2 CPU cores"."""
    gpus = tf.config.list_physical_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"{CORES} CPU cores"


@functools.cache  # a second one of a kind would take part in the first one's sums
def _made(name: str) -> tf.distribute.Strategy:
    if name == "mirrored":
        kinds = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in kinds])
    if name == "multi-worker":
        _check_tf_config(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    tpu = os.environ.get("TPU_NAME", "local")  # that of this machine
    return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu))


def _check_tf_config(text: str | None) -> None:
    """Raises ValueError unless TF_CONFIG lists workers and says which of them this one is."""
    advice = (
        "Set it for each process, e.g. "
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
        '"index": 0}}.'
    )
    try:
        config = json.loads(text or "")
        workers, task = config["cluster"]["worker"], config["task"]
        fine = isinstance(workers, list) and len(config["cluster"]) == 1
        fine = fine and task["type"] == "worker" and 0 <= task["index"] < len(workers)
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine:
        raise ValueError(
            "strategy 'multi-worker' needs the environment variable TF_CONFIG with a list of "
            f"workers and this one's index in it; received {text!r}. {advice}"
        )


def num_workers() -> int:
    """Returns how many processes the current strategy spans."""
    return _task()[1]


def worker_index() -> int:
    """Returns this process' place among them, from 0."""
    return _task()[0]


def is_chief() -> bool:
    """Whether this process is the one that writes."""
    return worker_index() == 0


def _task() -> tuple[int, int]:
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def any_process(flag: bool) -> bool:
    """Returns whether any of the processes passes True; all must call it at the same step."""
    if num_workers() == 1:
        return flag
    return bool(_total([np.float32(flag)])[0] > 0)


def broadcast(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the chief's arrays in every process; the others pass arrays of the same shapes."""
    if num_workers() == 1:
        return arrays
    if not is_chief():
        arrays = [np.zeros_like(array) for array in arrays]
    return _total(arrays)


def share(variables: Sequence[keras.Variable]) -> None:
    """Gives variables the chief's values in every process."""
    if num_workers() == 1:
        return
    values = broadcast([variable.numpy() for variable in variables])
    for variable, value in zip(variables, values, strict=True):
        if not is_chief():
            variable.assign(value)


def _total(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The sums over all processes."""
    strategy = tf.distribute.get_strategy()

    @tf.function(autograph=False)
    def first_replica_only(tensors):
        replica = tf.distribute.get_replica_context()
        local = replica.replica_id_in_sync_group % (strategy.num_replicas_in_sync // num_workers())
        return [t * tf.cast(tf.equal(local, 0), t.dtype) for t in tensors]

    tensors = strategy.run(first_replica_only, args=([tf.constant(a) for a in arrays],))
    return [strategy.reduce("SUM", tensor, axis=None).numpy() for tensor in tensors]


# Inside a training step --------------------------------------------------------------------------


def num_replicas() -> int:
    """Returns how many devices share the global batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def images_before(batch: tf.Tensor) -> tf.Tensor:
    """Returns how many images of the global batch the replicas before this one hold, int32.

    Args:
        batch: How many this replica holds; the last batch of an epoch may be shared out unevenly.
    """
    replicas = num_replicas()
    if replicas == 1:
        return tf.constant(0)
    replica = tf.distribute.get_replica_context()
    own = tf.one_hot(replica.replica_id_in_sync_group, replicas, tf.cast(batch, tf.int32), 0)
    counts = replica.all_reduce(tf.distribute.ReduceOp.SUM, own)
    return tf.cumsum(counts, exclusive=True)[replica.replica_id_in_sync_group]


def objective(
    values: tf.Tensor, weight: tf.Tensor | None, added: Sequence[tf.Tensor] = ()
) -> tf.Tensor:
    """Returns this replica's share of what a training step lowers.

        1/n sum_i weight_i value_i + sum_j added_j,   n images in the global batch

    The shares of all replicas add up to that. n counts images and not weights, as in Keras: half
    the weights are half the gradient.

    Args:
        values: Losses of the images, (batch,).
        weight: Of the images, or None for 1 each.
        added: Losses of regularisers and of `add_loss`, of any float dtype.
    """
    replicas = num_replicas()
    if weight is not None:
        values *= tf.cast(tf.reshape(weight, (-1,)), values.dtype)
    if replicas == 1:
        loss = tf.reduce_mean(values)
    else:  # which may hold batches of several sizes
        count = tf.reduce_sum(tf.ones_like(values))
        count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, count)
        loss = tf.math.divide_no_nan(tf.reduce_sum(values), count)
    if added:
        loss += tf.add_n([tf.reduce_sum(tf.cast(x, loss.dtype)) for x in added]) / replicas
    return loss


def unscaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer itself, without the scaling of the loss that may be around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor | tf.IndexedSlices | None],
    variables: Sequence[keras.Variable],
) -> None:
    """Moves `variables` by the sum of all replicas' gradients.

    Gradients of a lookup become dense ones: only these can be summed over replicas, and have the
    norm that a clip is about.

    Keras clips, and looks for infinities, before it sums over the replicas. Where an optimizer does
    either, it is handed an equal share of the sum, so that all replicas decide alike. A bound on
    a norm then acts on a share; `starting.gradient_bound` divides it by the number of replicas.
    """
    if not variables:  # all frozen: Keras' optimizers would not even count the step
        unscaled(optimizer)._iterations.assign_add(1)
        return
    replicas = num_replicas()
    gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    inner = unscaled(optimizer)
    clips = any((inner.clipnorm, inner.global_clipnorm, inner.clipvalue))
    if replicas > 1 and (clips or inner is not optimizer):
        given = [g for g in gradients if g is not None]
        replica = tf.distribute.get_replica_context()
        summed = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
        gradients = [None if g is None else next(summed) / replicas for g in gradients]
    optimizer.apply(gradients, variables)


def move_averages(
    averages: Sequence[tf.Variable],
    weights: Sequence[tf.Variable | tf.Tensor],
    step: tf.Tensor,
    momentum: float,
    last_step: tf.Tensor | tf.Variable | None = None,
    max_steps: int = 1,
) -> None:
    """Moves averaged weights by one step, or by all steps since the last call.

        average <- m average + (1 - m) weight,   m = min(momentum, (1 + n) / (10 + n)) at step n

    The growing m forgets the initial weights, which a constant one would still hold after a short
    run.

    Args:
        averages: Variables to move.
        weights: Variables or tensors of the same shapes.
        step: n, an integer.
        momentum: In [0, 1).
        last_step: The step of the last call; None if that was the step before. Several steps keep
            the product of what each of them keeps.
        max_steps: How many steps that may be.
    """
    steps = step if last_step is None else step - tf.range(max_steps, dtype=step.dtype)
    n = tf.cast(steps, tf.float32)
    keep = tf.minimum((1.0 + n) / (10.0 + n), momentum)
    if last_step is not None:
        keep = tf.reduce_prod(tf.where(steps > last_step, keep, 1.0))
    replica = tf.distribute.get_replica_context()
    if num_replicas() > 1 and replica is not None:
        replica.merge_call(_move_on_each_device, (averages, weights, keep))
        return
    for average, weight in zip(averages, weights, strict=True):
        _move(average, weight, keep)


def _move(average, weight, keep) -> None:
    average.assign_sub(tf.cast(1.0 - keep, average.dtype) * (average - weight))


def _move_on_each_device(strategy, averages, weights, keep) -> None:
    for average, weight in zip(averages, weights, strict=True):
        strategy.extended.update(average, _move, args=(weight, keep), group=False)
