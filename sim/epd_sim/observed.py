"""Traffic that was measured as rates and means, drawn anew as single requests.

What metrics tell of a cluster's traffic has no single requests in it. Arrivals are drawn as
Poisson, lengths as log-normal around their means: how they really spread, no mean says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from epd_sim.scenarios import around
from epd_sim.workload import Request, Shape, arrive, poisson_gaps

SPREAD: Final = 0.6
"""Sigma of the logarithm of a length, as in the scenarios."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Rates and means of some minutes.

    Attributes:
        requests_per_s: All of them.
        image_share: Share of requests with images, 0 to 1.
        images: Of such a request.
        image_tokens: Of an image.
        text_tokens: Of a prompt besides its images.
        output_tokens: Of an answer to a request without images.
        image_output_tokens: Of an answer to one with images.
    """

    requests_per_s: float
    image_share: float
    images: float
    image_tokens: float
    text_tokens: float
    output_tokens: float
    image_output_tokens: float

    def draw(self, seconds: float, seed: int) -> list[Request]:
        """Return such traffic; equal seeds give equal requests."""
        rng = np.random.default_rng(seed)
        gaps = poisson_gaps(self.requests_per_s, rng)
        return arrive(gaps, self._shape, rng, seconds=seconds)

    def _shape(self, rng: np.random.Generator) -> Shape:
        text = around(max(1.0, self.text_tokens), SPREAD, rng)
        if rng.random() >= self.image_share:
            return Shape(text, around(max(1.0, self.output_tokens), SPREAD, rng))
        images = tuple(self._images(rng))
        return Shape(text, around(max(1.0, self.image_output_tokens), SPREAD, rng), images)

    def _images(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield the tokens of each image of a request: at least one image, the right mean."""
        whole = int(self.images)
        for _ in range(max(1, whole + int(rng.random() < self.images - whole))):
            yield max(1, round(self.image_tokens))
