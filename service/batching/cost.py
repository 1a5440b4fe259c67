"""What a batch costs the device, learned from the batches that it has run."""

from collections.abc import Sequence
from dataclasses import dataclass

MEGAPIXEL = 1e6
# The weight of a measurement halves with every 13 newer ones.
REMEMBERED = 0.95
SWEEPS = 4
# After this long without a measurement, and ten times what one image takes, a cost is a rumour:
# whoever was turned away because of it could never correct it.
STALE_S = 10.0
STALE_IMAGES = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """What one or several batches of a model ask of the device."""

    num_images: int
    num_pixels: int
    num_instances: float
    num_batches: int = 1

    @property
    def features(self) -> Sequence[float]:
        """What the time is proportional to."""
        return (float(self.num_batches), self.num_pixels / MEGAPIXEL, self.num_instances)


class CostModel:
    """Seconds of one model's batches: so much for each, per megapixel and per instance.

    The three are the least squares of the relative error, none of them negative.
    """

    def __init__(self) -> None:
        self.seconds_per_image = 0.0
        self.instances_per_image = 0.0
        self._measured_s: float | None = None
        self._weights = [0.0, 0.0, 0.0]
        # The normal equations, products @ weights = targets.
        self._products = [[0.0, 0.0, 0.0] for _ in range(3)]
        self._targets = [0.0, 0.0, 0.0]

    def measure(self, work: Work, seconds: float, now_s: float) -> None:
        """Learns from a batch that has been run."""
        share = 1.0 if self._measured_s is None else 0.2
        self.seconds_per_image += share * (seconds / work.num_images - self.seconds_per_image)
        self.instances_per_image += share * (
            work.num_instances / work.num_images - self.instances_per_image
        )
        self._measured_s = now_s
        # An error counts relative to the time that it took, or should have: so neither a slow batch
        # nor one that for some reason took no time outweighs the others.
        scale = 1 / max(seconds, self.seconds(work) / 2, 1e-6)
        features = [scale * feature for feature in work.features]
        for row, feature in enumerate(features):
            self._targets[row] = REMEMBERED * self._targets[row] + feature * scale * seconds
            for column, other in enumerate(features):
                product = REMEMBERED * self._products[row][column] + feature * other
                self._products[row][column] = product
        self._solve()

    def seconds(self, work: Work) -> float:
        """What this will take; 0 while nothing is known."""
        pairs = zip(self._weights, work.features, strict=True)
        return sum(weight * feature for weight, feature in pairs)

    def is_known(self, now_s: float) -> bool:
        """Whether the last measurement is recent enough to turn somebody away."""
        if self._measured_s is None:
            return False
        return now_s - self._measured_s < STALE_S + STALE_IMAGES * self.seconds_per_image

    def _solve(self) -> None:
        """Coordinate descent from the last solution.

        Where features move together, as they often do, that keeps their shares as they were.
        """
        for _ in range(SWEEPS):
            for row, products in enumerate(self._products):
                if products[row] > 0:
                    pairs = zip(products, self._weights, strict=True)
                    of_others = sum(product * weight for product, weight in pairs)
                    of_others -= products[row] * self._weights[row]
                    weight = (self._targets[row] - of_others) / products[row]
                    self._weights[row] = max(weight, 0.0)
