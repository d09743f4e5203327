"""HydraInfer's five datasets as distributions: what their published tables tell of each.

Source: the dataset table of arXiv 2505.12658 (lmms-lab test splits; token counts of the LLaVA-NeXT
processor; output lengths of greedy vLLM, replayed). Known are mean and range; the shapes in between
are ours: prompts follow a beta distribution, answers a log-normal one whose spread makes the
longest answer as long as the longest published. One image a request.
"""

from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np

from epd_sim.workload import Draw, Shape

_PROMPT_TEXT_TOKENS: Final = 40
_TABLE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset, as the tables have it.

    Attributes:
        name: As published.
        requests: How many there are.
        input_mean: Mean prompt tokens under LLaVA-NeXT, image tokens included.
        input_range: Fewest and most.
        output_mean: Mean answer tokens.
        output_range: Fewest and most.
    """

    name: str
    requests: int
    input_mean: float
    input_range: tuple[int, int]
    output_mean: float
    output_range: tuple[int, int]

    @property
    def output_spread(self) -> float:
        """Sigma of the log of the answers' lengths.

        Chosen so that the longest of `requests` log-normal draws is the longest published: with z
        its quantile, log(most / mean) = z sigma - sigma² / 2.
        """
        z = NormalDist().inv_cdf(1 - 1 / self.requests)
        longest = log(self.output_range[1] / self.output_mean)
        return z - sqrt(max(0.0, z * z - 2 * longest))


DATASETS: Final = {
    dataset.name: dataset
    for dataset in (
        Dataset("MME", 2374, 2160, (1011, 2974), 14.5, (2, 230)),
        Dataset("POPE", 9000, 2270, (1477, 2950), 24.2, (11, 71)),
        Dataset("TextCaps", 3289, 2339, (1779, 2955), 23.5, (5, 1024)),
        Dataset("TextVQA", 5734, 2335, (1769, 2958), 43.4, (2, 1024)),
        Dataset("VizWiz", 8000, 2355, (1007, 2954), 82.7, (2, 1024)),
    )
}


def llava_next(dataset: Dataset) -> Draw:
    """Return a draw of requests as LLaVA-NeXT sees them: up to 2,880 tokens an image."""
    prompts = _beta_table(dataset.input_mean, dataset.input_range)
    outputs = _log_normal_table(dataset.output_mean, dataset.output_range, dataset.output_spread)

    def draw(rng: np.random.Generator) -> Shape:
        prompt = prompts[int(rng.integers(_TABLE))]
        output = outputs[int(rng.integers(_TABLE))]
        return Shape(_PROMPT_TEXT_TOKENS, output, (prompt - _PROMPT_TEXT_TOKENS,))

    return draw


def _beta_table(mean: float, limits: tuple[int, int]) -> list[int]:
    """Return equally likely prompt lengths: a beta distribution over the range, set to the mean."""
    share = (mean - limits[0]) / (limits[1] - limits[0])
    values = np.random.default_rng(0).beta(4 * share, 4 * (1 - share), _TABLE)
    values = np.clip(values + share - values.mean(), 0, 1)
    return [int(x) for x in np.rint(limits[0] + values * (limits[1] - limits[0]))]


def _log_normal_table(mean: float, limits: tuple[int, int], spread: float) -> list[int]:
    """Return equally likely answer lengths: log-normal, cut to the range, set to the mean."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((i + 0.5) / _TABLE) for i in range(_TABLE)])
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        values = np.clip(np.exp(middle + spread * z), *limits)
        low, high = (middle, high) if values.mean() < mean else (low, middle)
    return [int(x) for x in np.rint(values)]
