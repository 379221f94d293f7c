"""Inception Score: how sure a classifier is of each image, and how many classes it finds in all of them.

    IS = exp( (1/N) Σ_n KL( p(y|x_n) ‖ p(y) ) ),   p(y) = (1/N) Σ_n p(y|x_n)          between 1 and the number of classes

References:
    Salimans et al. 2016, Improved techniques for training GANs, section 4 (mean and deviation over 10 splits).
    Barratt & Sharma 2018, A note on the Inception Score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaelid.scoring.resampling import Score

#: As published.
SPLITS = 10


def inception_score(log_probabilities: Tensor, splits: int = 1) -> Tensor:
    """IS of each of ``splits`` parts in their order, ``(splits,)``, from log p(y|x) ``(N, C)`` nats."""
    return torch.stack([_of_part(part.double()) for part in log_probabilities.tensor_split(splits)])


def _of_part(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    entropy_of_mean = -torch.xlogy(p.mean(0), p.mean(0)).sum()
    mean_entropy = -torch.where(p > 0, p * log_p, 0.0).sum(1).mean()  # log p may be −∞
    return (entropy_of_mean - mean_entropy).exp()


def inception_scores(log_probabilities: Tensor, chosen: Tensor) -> Score:
    """The mean over the published 10 splits (fewer where there are fewer than 20 images), with halves ``(R, N)``."""
    splits = max(1, min(SPLITS, len(log_probabilities) // 20))
    on_halves = torch.stack([inception_score(log_probabilities[half], splits).mean() for half in chosen])
    return Score(inception_score(log_probabilities, splits).mean(), on_halves)
