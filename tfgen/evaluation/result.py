"""One measured number, next to the same measure of real images and to what was recorded."""

import dataclasses
import math

__all__ = ["Result", "Results"]

# Float rounding differs between machines; a changed weight or a changed bound moves more.
RELATIVE_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Result:
    """One measured number, and where it makes sense the same measure of real images.

    >>> Result(100.05, "nats", recorded=100.0).reproduced
    True

    Args:
        value: What was measured of the model.
        unit: The unit of `value` and `real`.
        real: The same measure of real images, to compare with. None if there is no such measure.
        tolerance: Absolute difference to accept, for values near 0.
        judge: What supplied the features or classes, e.g. "classifier_mnist"; None if nothing.
        recorded: The value on the card; None if there is none.
        recorded_real: The real images' value on the card.
    """

    value: float
    unit: str
    real: float | None = None
    tolerance: float = 0.0
    judge: str | None = None
    recorded: float | None = None
    recorded_real: float | None = None

    @property
    def finite(self) -> bool:
        """Whether its values are numbers that a JSON file can hold."""
        return all(math.isfinite(value) for value in (self.value, self.real) if value is not None)

    @property
    def reproduced(self) -> bool:
        """Whether both values equal the recorded ones, to 0.1 % or the tolerance.

        Values that are not finite are never recorded.
        """
        if self.recorded is None and self.recorded_real is None and not self.finite:
            return True
        if self.recorded is None or (self.real is None) != (self.recorded_real is None):
            return False
        pairs = [(self.value, self.recorded)]
        if self.real is not None:
            pairs.append((self.real, self.recorded_real))
        return all(
            new == old or abs(new - old) <= max(RELATIVE_TOLERANCE * abs(old), self.tolerance)
            for new, old in pairs
        )


Results = dict[str, Result]
