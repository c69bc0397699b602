"""What Keras must be set to for tfgen, checked when tfgen is imported and a model is built."""

import os

__all__ = ["check"]


def check() -> None:
    """Raises ImportError unless Keras runs on TensorFlow with channels last."""
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if wanted == "tensorflow":
        import keras

        wanted = keras.config.backend()  # also set by Keras' configuration file
    if wanted != "tensorflow":
        raise ImportError(
            f"tfgen runs on Keras' TensorFlow backend alone; the backend is {wanted!r}. Set the "
            "environment variable KERAS_BACKEND=tensorflow before Python starts."
        )
    layout = keras.config.image_data_format()
    if layout != "channels_last":
        raise ImportError(
            "tfgen needs images as (batch, height, width, channels); Keras is set to "
            f"{layout!r}. Call keras.config.set_image_data_format('channels_last'), or correct "
            "image_data_format in Keras' configuration file."
        )


check()
