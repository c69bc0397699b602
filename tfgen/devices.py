"""Training on several devices with TensorFlow's own strategies.

A strategy keeps a copy of the model, a replica, on each device; each takes its part of the global
batch, and the gradients are summed. What has to be right for that lives here: which part of a
batch is whose, who writes, and what all processes have to agree on.
"""

import functools
import json
import os

import numpy as np
import tensorflow as tf

__all__ = [
    "STRATEGIES",
    "any_asks",
    "broadcast",
    "is_chief",
    "make_strategy",
    "num_workers",
    "worker_index",
]

STRATEGIES = ("none", "mirrored", "multi-worker", "tpu")


@functools.cache  # a second one of a kind would take part in the first one's sums
def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns TensorFlow's strategy of that name.

    Args:
        name: "none", one device; "mirrored", all devices of this process: GPUs, or logical CPUs;
            "multi-worker", the processes that the environment variable TF_CONFIG lists, each with
            its own devices; "tpu", the cores of the TPU that the environment names.

    Raises:
        ValueError: An unknown name, or "multi-worker" without a TF_CONFIG that fits.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}; received {name!r}.")
    if name == "mirrored":
        kinds = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in kinds])
    if name == "multi-worker":
        _check_tf_config(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()  # the default one, of one replica


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
        fine = task["type"] == "worker" and 0 <= task["index"] < len(workers)
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
    resolver = tf.distribute.get_strategy().cluster_resolver
    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def any_asks(asks: bool) -> bool:
    """Returns whether any of the processes passes True; all have to call it at the same step."""
    if num_workers() == 1:
        return asks
    return bool(_total([np.float32(asks)])[0] > 0)


def broadcast(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the chief's arrays in every process; the others pass arrays of the same shapes."""
    if num_workers() == 1:
        return arrays
    if not is_chief():
        arrays = [np.zeros_like(array) for array in arrays]
    return _total(arrays)


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
