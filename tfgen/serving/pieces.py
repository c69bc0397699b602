"""JSON parsed in pieces, so that other threads run in between.

orjson and NumPy hold Python's global lock until they are done: with many megabytes the server
answers nothing for seconds, whatever the thread. Here the text is cut at commas into pieces of at
most `PIECE` bytes, a millisecond each. The cuts are found by array operations, which do not hold
the lock.
"""

import itertools
import json
import re
from typing import Any

import numpy as np
import orjson

__all__ = ["PIECE", "NotNumbers", "TooManyValues", "array_of", "loads"]

PIECE = 2**15  # bytes that are parsed without a pause
BLOCK = 2**12  # values that are converted without a pause
DEEPEST = 100  # levels of nesting; no tensor has as many axes
_COMMA, _QUOTE, _BACKSLASH = b',"\\'
# Possessive, so a long key needs no memory.
_KEY = re.compile(rb'\s*+("(?:[^"\\]++|\\.)*+")\s*+:', re.DOTALL)
_STEPS = np.zeros(256, np.int8)  # how a character changes the depth of nesting
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_STRUCTURAL = _STEPS != 0
_STRUCTURAL[_COMMA] = True


class TooManyValues(ValueError):
    """A text holds more values than `max_values`."""


class NotNumbers(TypeError):
    """Nested lists hold something else than numbers."""


def loads(text: bytes, max_values: int | None = None) -> Any:
    """Returns what a JSON text stands for; NaN and Infinity are allowed.

    >>> loads(b'{"inputs": [1, 2.5, NaN]}')
    {'inputs': [1, 2.5, nan]}

    Args:
        text: JSON in UTF-8.
        max_values: Maximum number of values; None for any number. Checked before parsing.

    Raises:
        TooManyValues: There are more.
        ValueError: The text is not valid JSON, or nested too deeply.
    """
    if len(text) <= PIECE and (max_values is None or text.count(b",") <= max_values):
        return _parse(text)
    return _Text(text, max_values).value(0, len(text))


def _parse(piece: bytes | memoryview) -> Any:
    raw = bytes(piece)
    # orjson is faster, but only Python's parser accepts NaN and Infinity, as TF Serving does.
    return json.loads(raw) if b"NaN" in raw or b"Infinity" in raw else orjson.loads(raw)


class _Text:
    """A text and the places of its brackets and commas; see `loads`."""

    def __init__(self, text: bytes, max_values: int | None):
        self.text = text
        characters = np.frombuffer(text, np.uint8)
        places = np.flatnonzero(_STRUCTURAL[characters])
        quotes = self._quotes(characters)
        if quotes.size:  # an odd number before a place: inside a string
            places = places[np.searchsorted(quotes, places) % 2 == 0]
        self.places, self.kinds = places, characters[places]
        commas = int(np.count_nonzero(self.kinds == _COMMA))
        if max_values is not None and commas >= max_values:
            raise TooManyValues(f"more than {max_values} values")
        self.depths = np.cumsum(_STEPS[self.kinds], dtype=np.int32)
        if places.size and (self.depths.min() < 0 or self.depths[-1] != 0):
            raise ValueError("brackets do not match")
        if places.size and self.depths.max() > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")

    def _quotes(self, characters: np.ndarray) -> np.ndarray:
        """Returns the places of the quotes that begin or end strings."""
        quotes = np.flatnonzero(characters == _QUOTE)
        escaped = np.zeros(len(quotes), bool)
        for index in np.flatnonzero((quotes > 0) & (characters[quotes - 1] == _BACKSLASH)):
            place = before = int(quotes[index])
            while before and self.text[before - 1] == _BACKSLASH:
                before -= 1
            escaped[index] = (place - before) % 2
        return quotes[~escaped]

    def value(self, start: int, end: int) -> Any:
        """Parses the text from `start` to `end`, which must be one value."""
        if end - start <= PIECE:
            return _parse(self.text[start:end])
        first, last = np.searchsorted(self.places, (start, end))
        if last - first < 2:
            return _parse(self.text[start:end])  # a long string, or an error for orjson to report
        opening, closing = int(self.places[first]), int(self.places[last - 1])
        closed = self.depths[last - 1] == self.depths[first] - 1
        if not closed or self.text[start:opening].strip() or self.text[closing + 1 : end].strip():
            raise ValueError(f"more than one value near byte {start}")
        inside = slice(first + 1, last - 1)
        at_commas = (self.kinds[inside] == _COMMA) & (self.depths[inside] == self.depths[first])
        bounds = np.concatenate([[opening], self.places[inside][at_commas], [closing]])
        pair = self.text[opening : opening + 1] + self.text[closing : closing + 1]
        empty = len(bounds) == 2 and not self.text[opening + 1 : closing].strip(b" \t\n\r")
        if pair == b"[]":
            return [] if empty else self._array(bounds)
        if pair == b"{}":
            return {} if empty else self._object(bounds)
        raise ValueError("brackets do not match")

    def _array(self, bounds: np.ndarray) -> list:
        """Parses the elements between commas at `bounds`, as many together as fit a piece."""
        values: list = []
        index, count = 0, len(bounds) - 1
        while index < count:
            start = int(bounds[index]) + 1
            stop = int(np.searchsorted(bounds, start + PIECE, side="right")) - 1
            stop = min(max(stop, index + 1), count)
            end = int(bounds[stop])
            if end - start > PIECE:
                values.append(self.value(start, end))
            else:
                found = _parse(b"[" + self.text[start:end] + b"]")
                if len(found) != stop - index:
                    raise ValueError(f"a value is missing near byte {start}")
                values.extend(found)
            index = stop
        return values

    def _object(self, bounds: np.ndarray) -> dict[str, Any]:
        values = {}
        for start, end in zip((bounds[:-1] + 1).tolist(), bounds[1:].tolist(), strict=True):
            key = _KEY.match(self.text, start, end)
            if key is None:
                raise ValueError(f"a key is missing near byte {start}")
            values[_parse(key[1])] = self.value(key.end(), end)
        return values


def array_of(value: Any, row_values: int = 1) -> np.ndarray:
    """Returns `np.array(value)`, made of blocks of rows so that other threads run in between.

    Args:
        value: A number or nested lists of numbers.
        row_values: How many numbers a row should have.

    Raises:
        NotNumbers: A string, null or an object is among them, or booleans and numbers are mixed.
        ValueError: Lists of unequal lengths.
    """
    rows = max(1, BLOCK // max(row_values, 1))
    if not isinstance(value, list) or len(value) <= rows:
        found = _array([value])
        return found.reshape(found.shape[1:])
    blocks = [_array(value[start : start + rows]) for start in range(0, len(value), rows)]
    if len({block.dtype == bool for block in blocks}) > 1:
        raise NotNumbers
    return np.concatenate(blocks)


def _array(block: list) -> np.ndarray:
    """Returns `np.array(block)`, but not of strings: it makes all as long as the longest."""
    leaves, types = block, set(map(type, block))
    while types == {list}:
        leaves = list(itertools.chain.from_iterable(leaves))
        types = set(map(type, leaves))
    if not (types <= {int, float, list} or types <= {bool, list}):
        raise NotNumbers
    return np.array(block)
