"""JSON in pieces: what orjson makes of the whole text, from calls that are all short."""

import json
import tracemalloc

import hypothesis
import numpy as np
import orjson
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfgen.serving import pieces
from tfgen.serving.errors import ServingError
from tfgen.serving.tensors import Spec, from_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text('a",:[]{}\\é'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('a",:[]{}\\'), inner),
    max_leaves=40,
)
EXAMPLES = hypothesis.settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def small(monkeypatch):
    """Pieces of 16 bytes; holds the lengths of those that were parsed."""
    lengths, parse = [], pieces._parse

    def noted(piece):
        lengths.append(len(piece))
        return parse(piece)

    monkeypatch.setattr(pieces, "PIECE", 16)
    monkeypatch.setattr(pieces, "_parse", noted)
    return lengths


def outcome(load, text: bytes):
    try:
        return load(text)
    except ValueError:
        return ValueError


@pytest.mark.slow
@EXAMPLES
@hypothesis.given(value=JSON, indent=st.sampled_from([None, 0, 3]))
@hypothesis.example(value=[[[[[{}]]]], [[[[[]]]]]], indent=8)  # behind more blanks than a piece has
def test_any_json(small, value, indent):
    assert pieces.loads(json.dumps(value, indent=indent).encode()) == value


@EXAMPLES
@hypothesis.given(value=JSON, data=st.data())
def test_broken_json_is_refused_as_orjson_refuses_it(small, value, data):
    text = bytearray(orjson.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.integers(0, 2))
        text[place : place + gone] = data.draw(st.sampled_from(list(b'[]{},:"\\ 1a'))).to_bytes()
    assert outcome(pieces.loads, bytes(text)) == outcome(orjson.loads, bytes(text))


def test_no_piece_is_long(small):
    rows = [[[[i % 256], [7]]] * 3 for i in range(200)]
    for body in ({"inputs": {"images": rows, "seed": list(range(200))}}, {"instances": rows}):
        assert pieces.loads(orjson.dumps(body)) == body
    assert max(small) <= 16 + 2  # and its brackets
    assert len(small) > 400


def test_numbers_that_json_lacks(small):
    text = b'{"inputs": [[NaN, 1.0], [Infinity, 2.0], [-Infinity, 3.0]], "other": "NaN"}'
    found = pieces.loads(text)
    np.testing.assert_array_equal(found["inputs"], [[np.nan, 1], [np.inf, 2], [-np.inf, 3]])


def test_the_number_of_values_is_checked_before_parsing(monkeypatch):
    text = b'{"a,b": [1, 2], "c": ",\\",,"}'  # two of its commas are not in strings
    assert pieces.loads(text, max_values=3) == orjson.loads(text)
    monkeypatch.setattr(pieces, "_parse", lambda _: pytest.fail("it was parsed"))
    for broken in (text, text + b"...", b"[" + b"1," * 10**6):
        with pytest.raises(pieces.TooManyValues):
            pieces.loads(broken, max_values=2)


def test_deep_nesting_is_refused():
    for depth in (101, 10**6):
        with pytest.raises(ValueError, match=r"nested more than 100 levels|do not match"):
            pieces.loads(b" " * pieces.PIECE + b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (10_000,), (9, 2, 2000), (3, 5000)])
def test_arrays_in_blocks(shape):
    for array in (np.arange(np.prod(shape)).reshape(shape), np.ones(shape), np.ones(shape, bool)):
        found = pieces.array_of(array.tolist(), int(np.prod(shape[1:])))
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype or not array.size


@pytest.mark.parametrize("wrong", ["x", None, {"b64": ""}])
@pytest.mark.parametrize("nested", [lambda x: x, lambda x: [1, x], lambda x: [[2], [x]]])
def test_what_is_no_number_is_refused_before_an_array_is_made(wrong, nested, monkeypatch):
    """NumPy would make every element as long as the longest string."""
    monkeypatch.setattr(pieces.np, "array", lambda *_: pytest.fail("an array was made"))
    with pytest.raises(pieces.NotNumbers):
        pieces.array_of(nested(wrong))


def test_a_long_string_among_numbers_costs_nothing():
    spec = Spec("seed", "seed:0", tf.int64, (None,))
    for value in (["x" * 10**7, *[1] * 255], [*[1] * 9000, "x" * 10**7], "x" * 10**7):
        tracemalloc.start()
        with pytest.raises(ServingError, match="is not of expected type: int64"):
            from_json(value, spec)
        assert tracemalloc.get_traced_memory()[1] < 10**6
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", [b"a" * 10**5, b"\\\\" * 10**5, b'\\"' * 10**5, b"[" * 10**5, b" " * 10**5]
)
@pytest.mark.parametrize("body", [b'{"%b": 1}', b'{"a": 1, "%b": [2]}', b'{"a": "%b"}', b'["%b"]'])
def test_long_strings_need_little_memory(text, body):
    """Also as keys, and whatever they hold."""
    body = body % text
    tracemalloc.start()
    try:
        found = pieces.loads(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * len(body)
    assert found == orjson.loads(body)


def test_rows_of_unequal_lengths():
    with pytest.raises(ValueError, match="dimension"):
        pieces.array_of([[1, 2]] * 5000 + [[1]], 2)


@pytest.mark.parametrize("mixed", [[True, 2], [[1.5], [False]], [[True] * 5000, [1] * 5000]])
def test_booleans_among_numbers_are_no_numbers(mixed):
    with pytest.raises(pieces.NotNumbers):
        pieces.array_of(mixed, 5000)
