"""Guidance: a pixel model that leans further towards the class it is asked for.

    p_s(x_i | x_<i, y)  ~  p(x_i | x_<i, y) [p(x_i | x_<i, y) / p(x_i | x_<i)]^s

of strength s; "~" means up to a factor that makes the sum over x_i one. The reference comes from
the same network, told every class in turn:

    p(x_i | x_<i) = sum_c p(c | x_<i) p(x_i | x_<i, c),      p(c | x_<i)  ~  p(x_<i | c)

By Bayes' rule the ratio in brackets is p(y | x_<=i) / p(y | x_<i) (Dhariwal & Nichol, "Diffusion
models beat GANs on image synthesis", 2021; Ho & Salimans, "Classifier-free diffusion guidance",
2022). Every conditional is a distribution, so the likelihood stays exact.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from tfgen import checks, portable

if TYPE_CHECKING:
    from tfgen.models.token_networks import TokenModel

__all__ = ["LOGITS", "Belief", "Guide", "check_guidance"]

LOGITS = ("bernoulli", "categorical")  # distributions whose parameters are logits


def check_guidance(guidance: float, num_classes: int | None, pixel_distribution: str) -> None:
    """Raises ValueError unless a model of these arguments can be guided that strongly."""
    checks.finite(0, guidance=guidance)
    if guidance and num_classes is None:
        raise ValueError(
            "guidance must be 0 for a model without num_classes, since it leans towards a class; "
            f"received {guidance}."
        )
    if guidance and pixel_distribution not in LOGITS:
        raise ValueError(
            f"guidance must be 0 unless pixel_distribution is {' or '.join(LOGITS)}, whose "
            f"outputs can be weighed level by level; received {guidance} with "
            f"{pixel_distribution!r}."
        )


class Belief(NamedTuple):
    """What is known about the class of each image.

    Attributes:
        asked: One-hot class that each image is asked to be, (classes, batch).
        evidence: log p(x_<i | c) for each class c, (classes, batch).
    """

    asked: tf.Tensor
    evidence: tf.Tensor


class Guide:
    """Reads every image as one of each class. Rows of all classes are stacked, class by class.

    Args:
        model: Conditional pixel model, whose `guidance` is above 0.
    """

    def __init__(self, model: "TokenModel"):
        self.model, self.classes, self.strength = model, model.num_classes, model.guidance

    def conditions(self, reading: tf.Tensor) -> Any:
        """The model's conditions for every image as every class, rows (classes * batch,)."""
        batch = tf.shape(reading)[0]
        labels = tf.repeat(tf.range(self.classes), batch)
        return self.model.conditions(self.classes * batch, labels, self.copies(reading))

    def copies(self, x: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """Repeats a batch once for each class, along the axis of its images."""
        return tf.concat([x] * self.classes, axis)

    def start(self, labels: tf.Tensor) -> Belief:
        """Before the first pixel all classes are equally likely."""
        asked = tf.one_hot(labels, self.classes, dtype=self.model.output_dtype, axis=0)
        return Belief(asked, tf.zeros_like(asked))

    def of_each_class(self, parameters: tf.Tensor) -> tf.Tensor:
        """Parameters (rows, ..., outputs) -> log p of outcomes, (classes, batch, ..., outcomes)."""
        if self.model.outputs == 1:
            log_probs = -portable.softplus(tf.concat([parameters, -parameters], -1))
        else:
            log_probs = tf.nn.log_softmax(parameters)
        return tf.reshape(
            log_probs, (self.classes, -1, *parameters.shape[1:-1], log_probs.shape[-1])
        )

    def guided(self, log_probs: tf.Tensor, belief: Belief) -> tf.Tensor:
        """Parameters of the guided distribution.

        Args:
            log_probs: Given each class, (classes, batch, ..., outcomes).
            belief: Of the images, with (classes, batch, ...) each.

        Returns:
            (batch, ..., outputs).
        """
        # log p(x_i | x_<i)
        posterior = tf.nn.log_softmax(belief.evidence, 0)[..., None]
        reference = tf.reduce_logsumexp(posterior + log_probs, 0)
        own = tf.reduce_sum(belief.asked[..., None] * log_probs, 0)
        logits = own + self.strength * (own - reference)
        return logits[..., 1:] - logits[..., :1] if self.model.outputs == 1 else logits

    def learn(self, belief: Belief, log_probs: tf.Tensor, levels: tf.Tensor) -> Belief:
        """Adds what a group (batch, pixels of a group) says about the class, once it is drawn."""
        return belief._replace(evidence=belief.evidence + self._taken(log_probs, levels))

    def _taken(self, log_probs: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
        """log p of what groups are, (classes, batch, ...)."""
        outcomes = self.model.outcomes_of(levels)
        return tf.reduce_sum(
            log_probs * tf.one_hot(outcomes, log_probs.shape[-1], dtype=log_probs.dtype), -1
        )

    def parameters_of(self, tokens: tf.Tensor, labels: tf.Tensor, reading: tf.Tensor) -> tf.Tensor:
        """Guided parameters of every group given the true groups before it.

        Args:
            tokens: (batch, rows, columns, groups, pixels of a group).
            labels: (batch,).
            reading: int32 (batch,).

        Returns:
            (batch, rows, columns, groups, outputs).
        """
        shape = (*tokens.shape[1:-1], self.model.outputs)

        def one_image(image):
            tokens, label, reading = (x[None] for x in image)
            parameters = self.model.parameters_of(self.copies(tokens), self.conditions(reading))
            log_probs = self.of_each_class(parameters)
            taken = tf.reshape(self._taken(log_probs, tokens), (self.classes, -1))
            evidence = tf.reshape(
                tf.cumsum(taken, 1, exclusive=True), (self.classes, 1, *shape[:-1])
            )
            asked = tf.broadcast_to(self.start(label).asked[..., None, None, None], evidence.shape)
            return self.guided(log_probs, Belief(asked, evidence))[0]

        # One image after another, since each is read as all classes at once.
        return tf.map_fn(
            one_image,
            (tokens, labels, reading),
            fn_output_signature=tf.TensorSpec(shape, tokens.dtype),
            parallel_iterations=1,
        )
