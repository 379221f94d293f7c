"""The theory of this run's own parts: what each is, its density and its sampler, as words and formulas (LaTeX, shown as MathML).

    a table per kind, by the part's name; a user's own part gets ``OWN``
"""

from __future__ import annotations

from dataclasses import dataclass

from latex2mathml.converter import convert
from markupsafe import Markup


@dataclass(frozen=True)
class Theory:
    """A part: what it is for, its log density, and how it is sampled; formulas in LaTeX."""

    about: str
    density: str
    sampling: str
    sampler: str = ""
    trap: str = ""


OWN = Theory(
    about="This is a part of the user's own; its docstring and its file in the run's folder say what it is.",
    density="",
    sampling="Its distribution draws by its own sample method. The audit above tests whether sampler and density belong together.",
)

LIKELIHOODS: dict[str, Theory] = {
    "bernoulli": Theory(
        about="The pixels are 0 or 1, so each is a coin with its own probability; given z they are independent. The decoder gives one "
        "logit per pixel.",
        density=r"\log\,p(x\mid z)=\sum_{i=1}^{D}\left[x_i\,l_i(z)-\log\left(1+e^{l_i(z)}\right)\right]",
        sampling="Draw z, compute the logits, and toss every pixel's coin once.",
        sampler=r"x_i=1\ \text{if}\ u_i<\frac{1}{1+e^{-l_i(z)}},\quad u_i\sim\mathcal{U}(0,1)",
        trap="The smooth gray picture that is usually shown is the mean of p(x|z), not a draw. And a Gaussian would be a density: on "
        "pixels that are exactly 0 or 1 it grows without limit as its width shrinks, and says nothing about probability.",
    ),
    "categorical": Theory(
        about="The pixels have n gray levels, so each is a die with n faces; given z they are independent. The decoder gives n logits per "
        "pixel. Any shape of histogram can be learned, at the price of n numbers per pixel and of knowing nothing about the order of levels.",
        density=r"\log\,p(x\mid z)=\sum_{i=1}^{D}\left[l_{i,k_i}(z)-\log\sum_{k=0}^{n-1}e^{l_{i,k}(z)}\right],\quad k_i=(n-1)\,x_i",
        sampling="Draw z, compute the logits, and throw every pixel's die once; level k is the pixel value k/(n − 1).",
        sampler=r"k_i\sim\operatorname{Categorical}\left(\operatorname{softmax}(l_i(z))\right),\quad x_i=\frac{k_i}{n-1}",
        trap="Probabilities that are clamped for safety no longer sum to one, which can move an MNIST image by 2 nats; here nothing is clamped.",
    ),
    "gaussian": Theory(
        about="The pixels are real numbers, so p(x|z) is a density: a normal one around the decoder's mean, independent given z.",
        density=r"\log\,p(x\mid z)=-\sum_{i=1}^{D}\left[\frac{(x_i-m_i(z))^2}{2s_i^2}+\log\,s_i+\tfrac{1}{2}\log\,2\pi\right]",
        sampling="Draw z, compute mean and scale, and add noise of that scale to every pixel.",
        sampler=r"x_i=m_i(z)+s_i\,\varepsilon_i,\quad\varepsilon_i\sim\mathcal{N}(0,1)",
        trap="A density is not a probability: it can exceed 1, has no bits per dimension, and grows without limit as s falls to 0, which "
        "is why s has a floor. The mean picture that is usually shown leaves the noise out.",
    ),
    "discretized-gaussian": Theory(
        about="The pixels have n gray levels; each level gets the mass that a Gaussian has between the level's edges, and the outer levels "
        "all that lies beyond. So it knows the order of levels, and it is a probability.",
        density=r"P(k\mid z)=\Phi\left(\frac{k+\tfrac{1}{2}-m}{s}\right)-\Phi\left(\frac{k-\tfrac{1}{2}-m}{s}\right),\quad\log\,p(x\mid z)=\sum_{i=1}^{D}\log\,P(k_i\mid z)",
        sampling="Draw z, draw a Gaussian value for every pixel, round it to the nearest level, and cut it at the ends.",
        sampler=r"k_i=\operatorname{clip}\left(\operatorname{round}(m_i+s_i\,\varepsilon_i),0,n-1\right),\quad\varepsilon_i\sim\mathcal{N}(0,1)",
        trap="Leaving out the open outer bins loses the mass beyond black and white, and the levels no longer sum to one.",
    ),
}

PRIORS: dict[str, Theory] = {
    "standard-normal": Theory(
        about="One fixed bell for every latent, nothing to learn. Its KL from a diagonal Gaussian is known in closed form.",
        density=r"\log\,p(z)=-\tfrac{1}{2}\sum_{d=1}^{L}\left(z_d^2+\log\,2\pi\right)",
        sampling="Draw every latent from N(0, 1).",
        sampler=r"z=\varepsilon,\quad\varepsilon\sim\mathcal{N}(0,I)",
        trap="It is the one-component case of the mixture below, with fixed mean and scale.",
    ),
    "mixture": Theory(
        about="C bells with learned weights, means and scales. The encoder's images may gather in clusters without paying for it.",
        density=r"\log\,p(z)=\log\sum_{c=1}^{C}\exp\left(\log\,w_c+\sum_{d=1}^{L}\log\,\mathcal{N}(z_d;\mu_{cd},\sigma_{cd}^2)\right)",
        sampling="Pick one component for the whole vector, then draw from its Gaussian.",
        sampler=r"c\sim\operatorname{Categorical}(w),\quad z=\mu_c+\sigma_c\odot\varepsilon,\quad\varepsilon\sim\mathcal{N}(0,I)",
        trap="The sum over dimensions stands inside, the sum over components outside. The other way round (a log-sum-exp per dimension) "
        "is the density of another prior, which picks a component for every dimension afresh: trained with it, the sampler above draws "
        "from the wrong distribution, and the loss does not show it.",
    ),
    "factorized-mixture": Theory(
        about="For every latent a mixture of its own, the C weights shared by all: components are mixed per dimension.",
        density=r"\log\,p(z)=\sum_{d=1}^{L}\log\sum_{c=1}^{C}\exp\left(\log\,w_c+\log\,\mathcal{N}(z_d;\mu_{cd},\sigma_{cd}^2)\right)",
        sampling="Pick a component for every dimension afresh, then draw each latent from its own.",
        sampler=r"c_d\sim\operatorname{Categorical}(w),\quad z_d=\mu_{c_d d}+\sigma_{c_d d}\,\varepsilon_d",
        trap="A sampler that picks one component for the whole vector belongs to the joint mixture, and not to this density.",
    ),
}

OPTIMIZERS: dict[str, Theory] = {
    "adamax": Theory(
        about="Adam with the largest recent gradient in place of its root mean square: no step is longer than about the learning rate.",
        density=r"m\leftarrow\beta_1 m+(1-\beta_1)g,\quad u\leftarrow\max(\beta_2 u,|g|+\epsilon),\quad\theta\leftarrow\theta-\frac{\eta}{1-\beta_1^t}\cdot\frac{m}{u}",
        sampling="A rare large gradient keeps u high for about 1/(1 − β₂) steps, so spikes shorten later steps instead of lengthening them.",
    ),
    "adam": Theory(
        about="Every weight gets its own step length: the running mean of its gradient over its running root mean square.",
        density=r"m\leftarrow\beta_1 m+(1-\beta_1)g,\quad v\leftarrow\beta_2 v+(1-\beta_2)g^2,\quad\theta\leftarrow\theta-\eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)}+\epsilon}",
        sampling="Steps hardly depend on the scale of the loss, which is a sum over pixels here; the learning rate η is the scale of a step.",
    ),
    "adamw": Theory(
        about="Adam, with weight decay apart from the gradient: all weights shrink at the same rate.",
        density=r"\theta\leftarrow\theta-\eta\left(\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)}+\epsilon}+\lambda\,\theta\right)",
        sampling="Steps hardly depend on the scale of the loss; the learning rate η is the scale of a step.",
    ),
    "sgd": Theory(
        about="Steps along the gradient, with momentum.",
        density=r"b\leftarrow\mu\,b+g,\quad\theta\leftarrow\theta-\eta\,b",
        sampling="The step is in proportion to the gradient, and so to the number of pixels: a good learning rate does not carry over between data sets.",
    ),
}


def theory_of(table: dict[str, Theory], name: str) -> Theory:
    """What is known about a part by its name; ``OWN`` for one of the user's."""
    return table.get(name, OWN)


def inline(latex: str) -> Markup:
    """A formula in the line, as MathML.

    >>> print(inline("z_d"))
    <math display="inline"><mrow><msub><mi>z</mi><mi>d</mi></msub></mrow></math>
    """
    return _mathml(latex, "inline")


def block(latex: str) -> Markup:
    """A formula on a line of its own, as MathML."""
    return _mathml(latex, "block")


def _mathml(latex: str, display: str) -> Markup:
    # The formulas are ours, and the converter escapes what it reads.
    return Markup(convert(latex, display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))
