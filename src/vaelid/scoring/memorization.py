"""Are generated images copies of training images: how far they lie from training, beside held-out images that cannot be copies.

d(a) is the distance from a to its nearest training image. In a cell c of the feature space (k-means on the training images), over
all pairs of a generated x and a held-out y,

    A_c = P( d(x) > d(y) ) + ½ P( d(x) = d(y) )        ½ for new images of the data, near 0 for copies, near 1 for strange images
    Z_c = (A_c − ½) / σ_c,   σ_c² = (n + m + 1) / (12 n m)     n held-out and m generated images in the cell (Mann–Whitney)
    C_T = Σ_c P(c) Z_c / Σ_c P(c)                      P(c): share of held-out images; cells with fewer than 20 of either left out

C_T far below 0 means copying, far above 0 that generated images lie farther from training than new real ones do. Its size grows
with the square root of the number of images; ``farther_than_real``, Σ_c P(c) A_c / Σ_c P(c), is the effect to read beside it.

References:
    Meehan, Chaudhuri & Dasgupta 2020, A non-parametric test to detect data-copying in generative models, sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaelid.lazy import Lazy
from vaelid.scoring.neighbors import squared_distances
from vaelid.scoring.resampling import Score

if TYPE_CHECKING:
    from sklearn import cluster
else:
    cluster = Lazy("sklearn.cluster")  # a second and a half, which a training would wait for

_CELLS, _LEAST = 10, 20
_ROWS = 500


def nearest_training(x: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (float64) to, and position of, the nearest of ``training`` ``(T, F)`` for each of ``x`` ``(N, F)``."""
    center = training.mean(0)
    narrow = (training - center).float()  # finds the neighbor; the distance to it is then computed in full
    # |x|² is the same for all of training, so it does not matter here which is nearest.
    length = narrow.square().sum(1)
    at = torch.cat([torch.addmm(length, part, narrow.T, alpha=-2).argmin(1) for part in (x - center).float().split(_ROWS)])
    return (x.double() - training[at].double()).norm(dim=1), at


@dataclass(frozen=True)
class Cells:
    """A partition of the feature space by the nearest of C centers ``(C, F)``."""

    centers: Tensor

    def of(self, x: Tensor) -> Tensor:
        """The cell of each of ``x`` ``(N, F)``, ``(N,)``."""
        return squared_distances(x.double(), self.centers).argmin(1)


def cells_of(training: Tensor, seed: int, most: int = 10_000) -> Cells:
    """K-means cells of training features ``(T, F)``, found on the first ``most`` of them; one cell where images are few."""
    count = max(1, min(_CELLS, len(training) // (4 * _LEAST)))
    fitted = cluster.KMeans(count, n_init=1, random_state=seed).fit(training[:most].double().numpy())
    return Cells(torch.from_numpy(fitted.cluster_centers_).double())


@dataclass(frozen=True)
class HeldOut:
    """Held-out images as the yardstick: their distances to training and their cells, ``(M,)`` each."""

    distance: Tensor
    cell: Tensor


def copying_scores(distance: Tensor, cell: Tensor, held_out: HeldOut, chosen: Tensor) -> dict[str, Score]:
    """C_T and ``farther_than_real`` of generated images with these distances and cells ``(N,)``, with halves ``(R, N)``.

    Empty where no cell has 20 images of either kind. The σ_c of a half are those of the whole set, so that its C_T varies around
    the same value.
    """
    above, share, sigma, members = [], [], [], []
    for c in torch.unique(held_out.cell):
        mine, theirs = cell == c, held_out.distance[held_out.cell == c].sort().values
        m, n = int(mine.sum()), len(theirs)
        if min(m, n) < _LEAST:
            continue
        below = torch.searchsorted(theirs, distance, right=False) + torch.searchsorted(theirs, distance, right=True)
        above.append(below.double() / (2 * n))
        share.append(n / len(held_out.cell))
        sigma.append(((n + m + 1) / (12 * n * m)) ** 0.5)
        members.append(mine)
    if not members:
        return {}
    inside, weight = torch.stack(members).double(), torch.tensor(share, dtype=torch.float64)  # (c, N), (c,)
    subsets = torch.cat((torch.ones(1, len(cell), dtype=torch.bool), chosen)).double()
    counted = (subsets @ inside.T).clamp_min(1)
    a = subsets @ (inside * torch.stack(above)).T / counted  # (1 + R, c)
    weight = weight / weight.sum()
    z = ((a - 0.5) / torch.tensor(sigma, dtype=torch.float64)) @ weight
    farther = a @ weight
    return {"C_T": Score(z[0], z[1:]), "farther_than_real": Score(farther[0], farther[1:])}
