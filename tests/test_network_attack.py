"""An attacker who sees backbone and head learns no more than their certificate claims, and more than less would allow.

The backbone is one noisy step on the sum of its records: of any training with that claim the one that tells most.
"""

from __future__ import annotations

import numpy as np
import pytest

from expunge import CertifiedHead, NewtonRidge
from expunge.accounting import PrivateTraining
from expunge.certificates.network import NetworkCertificate
from expunge.evaluation import audited_epsilon

DELTA, RUNS = 0.05, 300
HEAD = NewtonRidge(epsilon=0.5, delta=DELTA, releases=1, noise_std=0.1, fit_intercept=False)
X, Y = np.array([[1.0], [1.0], [1.0], [-0.2], [0.5], [0.1]]), np.array([2.0, 2.0, 2.0, 0.0, 0.3, -0.1])


def seen(
    rng: np.random.Generator, *, records: slice, gone: list[int], multiplier: float
) -> tuple[float, NetworkCertificate]:
    """Return the attacker's statistic of one network, and its certificate, once some records have left."""
    training = PrivateTraining(
        clip=1.0,
        noise_multiplier=multiplier,
        sampling_probability=1.0,
        n_steps=1,
        accountant="gdp",
        room=0.0,
        seeded=True,
    )
    weight = X[records].sum() + multiplier * rng.normal()  # every record's gradient is at most 1 long
    head = NewtonRidge(**{**HEAD.get_params(), "releases": 2})
    ids = np.arange(len(X))[records]
    model = CertifiedHead(lambda rows: np.tanh(rows) * (1 + 0.01 * weight), head, backbone=training, name="a sum")
    model = model.fit(X[records], Y[records], ids)
    model = model.unlearn(gone).model if gone else model.release_again().model
    return weight + model.head_.coef_[0] / head.noise_std * 0.05, model.certificate_


@pytest.mark.parametrize(("gone", "multiplier"), [([0], 0.5), ([0, 1, 2], 1.5)])
def test_what_is_seen_tells_less_than_the_claim_and_more_than_a_smaller_one(gone, multiplier):
    rng = np.random.default_rng(5)
    k = len(gone)
    forgot = [seen(rng, records=slice(0, None), gone=gone, multiplier=multiplier) for _ in range(RUNS)]
    never = [seen(rng, records=slice(k, None), gone=[], multiplier=multiplier) for _ in range(RUNS)]
    certificate = forgot[-1][1]
    assert certificate.n_deleted == k
    audited = audited_epsilon([float(s) for s, _ in forgot], [float(s) for s, _ in never], delta=DELTA)
    assert audited.epsilon <= certificate.epsilon
    if k > 1:
        assert audited.epsilon > certificate.one.epsilon  # which is not a claim about both
    else:
        assert audited.epsilon > certificate.head.epsilon  # nor is the head's about the backbone
