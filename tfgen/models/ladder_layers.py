"""What the networks of a hierarchical VAE and its critic are made of."""

import math

import keras
import tensorflow as tf
from keras.src.saving import serialization_lib

__all__ = ["Composite", "Mixing", "Part", "ResidualBlock", "with_class"]


class Composite(keras.layers.Layer):
    """A layer of layers, which are built when it is first called and cast their own inputs."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def build(self, *shapes):
        self.built = True


class Part(Composite):
    """A network of a model as a layer, saved by the model's configuration.

    So `model.encoder` may be a part of another model, which Keras saves and loads.

    Attributes:
        network: Of the model, the attribute with the network.
    """

    network: str

    def owned_by(self, model: keras.Model) -> "Part":
        """Notes the model. It hides in a function, or Keras would save it as a part of this one."""
        self._owner = lambda: model
        return self

    def get_config(self):
        owner = self._owner()
        family = keras.saving.get_registered_name(type(owner))
        config = {"name": self.name, "family": family, "model": owner.get_config()}
        return config | {"owner": f"tfgen {id(owner)}"}

    @classmethod
    def from_config(cls, config):
        # Parts of one model share layers, in what is loaded too.
        key = config.get("owner")
        model = serialization_lib.get_shared_object(key) if key else None
        if model is None:
            family = keras.saving.get_registered_object(config["family"])
            if family is None:
                raise ValueError(
                    f"{config['family']} is not registered. Import its module, decorate it with "
                    "keras.saving.register_keras_serializable, or pass custom_objects."
                )
            model = family.from_config(config["model"])
            if key:
                serialization_lib.record_object_after_deserialization(model, key)
        part = getattr(model, cls.network).get_layer(config["name"])
        part._inbound_nodes.clear()  # it is about to be called as another network's layer
        return part


class ResidualBlock(Composite):
    """x + conv(mask * elu(conv(elu(x)))), the last kernel starting small.

    Args:
        filters: Channels of x and between the convolutions.
        index: Which of the model's residual blocks it is: its row of the masks.
    """

    def __init__(self, filters: int, index: int, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.index = filters, index
        small = keras.initializers.VarianceScaling(0.1)
        self.conv_1 = keras.layers.Conv2D(filters, 3, padding="same", name="conv_1")
        self.conv_2 = keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer=small, name="conv_2"
        )

    def call(self, x, masks=None):
        y = keras.ops.elu(self.conv_1(keras.ops.elu(x)))
        if masks is not None:
            y *= masks[:, self.index, None, None, : self.filters]
        return x + self.conv_2(y)


class Mixing(Composite):
    """x + W_2 elu(W_1 elu(x)) over the places of the map, the same for each channel.

    The token mixing of Tolstikhin et al., "MLP-Mixer", 2021. A convolution sees places around it;
    this sees all, so an object's parts can agree.

    Args:
        grid: (height, width) of the map.
    """

    def __init__(self, grid: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        places = math.prod(grid)
        small = keras.initializers.VarianceScaling(0.1)
        self.dense_1 = keras.layers.Dense(places, activation="elu", name="dense_1")
        self.dense_2 = keras.layers.Dense(places, kernel_initializer=small, name="dense_2")

    def call(self, x):
        _, height, width, channels = x.shape
        rows = tf.transpose(tf.reshape(x, (-1, height * width, channels)), (0, 2, 1))
        rows = self.dense_2(self.dense_1(keras.ops.elu(rows)))
        return x + tf.reshape(tf.transpose(rows, (0, 2, 1)), (-1, height, width, channels))


def with_class(x: tf.Tensor, labels: tf.Tensor | None, num_classes: int | None) -> tf.Tensor:
    """Appends the classes, one-hot, to vectors (batch, width), if the model has any."""
    if num_classes is None:
        return x
    return tf.concat([x, tf.one_hot(labels, num_classes, dtype=x.dtype)], 1)
