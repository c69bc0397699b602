"""Formulas that other runtimes compute as TensorFlow does, also far from 0."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfgen
from tfgen import portable

VALUES = np.linspace(-400, 400, 1601).astype(np.float32)


def in_litert(function, values: np.ndarray) -> np.ndarray:
    graph = tf.function(function, input_signature=[tf.TensorSpec((None,), tf.float32, "values")])
    with portable.tracing():
        concrete = graph.get_concrete_function()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter moves to a package of its own
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
        interpreter = tf.lite.Interpreter(model_content=content)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_softplus_is_finite_everywhere():
    wanted = np.logaddexp(0, VALUES.astype(np.float64))
    np.testing.assert_allclose(portable.softplus(VALUES), wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(in_litert(portable.softplus, VALUES), wanted, rtol=1e-6, atol=1e-7)


def test_litert_would_overflow_without():
    """If this fails, LiteRT has learned it, and portable.softplus can go."""
    assert np.isinf(in_litert(tf.nn.softplus, VALUES)).any()


@pytest.mark.parametrize("name", ["softplus", "log_sigmoid"])
def test_no_endpoint_uses_what_litert_overflows_in(name):
    """The objectives of GANs may: they are never exported."""
    package = Path(tfgen.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(rf"(tf\.(nn|math)|keras\.ops|activations)\.{name}\b", path.read_text())
    }
    assert found <= {"portable.py", "models/gan.py"}
