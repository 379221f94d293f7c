"""The bounds against each other; what holds for every objective is in test_contract.py, known values in test_known_answers.py."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import kl_divergence

from small_parts import build_vae, pixels
from vaelid.errors import PartError
from vaelid.objectives import ELBO, IWAE
from vaelid.recipe import Part
from vaelid.supports import BINARY
from vaelid.vae import Pass


def seen(prior: str = "mixture", samples: int = 1) -> Pass:
    return build_vae(prior=Part(prior))(pixels(BINARY, 6), samples)


def test_iwae_with_one_sample_is_the_elbo_with_a_sampled_kl() -> None:
    one = seen("standard-normal")
    torch.testing.assert_close(IWAE(1)(one), ELBO(kl="sampled")(one))
    assert not torch.allclose(IWAE(1)(one), ELBO(kl="closed-form")(one))


def test_iwae_is_the_log_of_the_mean_weight() -> None:
    several = seen(samples=7)
    torch.testing.assert_close(IWAE(7)(several), several.log_weight.exp().mean(0).log())
    assert (IWAE(7)(several) >= ELBO(kl="sampled", samples=7)(several)).all()  # Jensen, image by image


def test_elbo_takes_the_closed_form_where_one_is_known() -> None:
    one = seen("standard-normal", samples=3)
    rate = kl_divergence(one.latents[0].posterior, one.latents[0].prior)
    for kl in ("auto", "closed-form"):
        torch.testing.assert_close(ELBO(kl=kl)(one), one.log_likelihood.mean(0) - rate)
        assert ELBO(kl=kl).rate_kind(one) == "closed-form"
    torch.testing.assert_close(ELBO(kl="sampled")(one), one.log_weight.mean(0))
    assert ELBO(kl="sampled").rate_kind(one) == IWAE().rate_kind(one) == "sampled"


def test_elbo_samples_the_kl_to_a_mixture_and_says_so() -> None:
    one = seen("mixture", samples=3)
    torch.testing.assert_close(ELBO()(one), one.log_weight.mean(0))
    assert ELBO().rate_kind(one) == "sampled"
    with pytest.raises(PartError, match=r"no formula is known for \(Independent, GaussianMixture\)"):
        ELBO(kl="closed-form")(one)


@pytest.mark.parametrize("kl", ["auto", "sampled"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_beta_weighs_the_kl(beta: float, kl: str) -> None:
    one = seen("standard-normal", samples=2)
    rate = one.sampled_rate if kl == "sampled" else one.rate
    torch.testing.assert_close(ELBO(beta=beta, kl=kl)(one), -one.distortion - beta * rate)


def test_the_warm_up_is_a_ramp() -> None:
    objective = ELBO(beta=2.0, warmup=10.0, kl="sampled", samples=3)
    assert [objective.at(e).beta for e in (0, 2.5, 5, 10, 11, 1000)] == [0, 0.5, 1, 2, 2, 2]
    assert objective.at(5) == ELBO(beta=1.0, warmup=0.0, kl="sampled", samples=3)
    assert ELBO(beta=2.0).at(0).beta == 2.0
