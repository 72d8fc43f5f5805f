"""No public function reads what a mask hides: a masked array is refused by the name of its argument.

NumPy reads the entry below a mask as any other, so a value that somebody marked as invalid would be counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from expunge import LangevinRidge, LangevinRidgeClassifier, accounting, certificates, data, evaluation, forget_sets
from expunge import grad_norms as norms
from expunge.accounting import GaussianFilter, GaussianPair, RenyiFilter, fit_log_steps
from expunge.certificates import Certificate, Phase, RidgeRun
from expunge.data import ConstantScaler, Reading
from expunge.evaluation import reference_band
from expunge.langevin import langevin_chains
from expunge.runs.ridge import (
    LearningLaw,
    exact_group_quotes,
    exact_quotes,
    shifted_group_quotes,
    shifted_quotes,
    smallest_eigenvalues,
)
from expunge.scoring import ProbeCheckpoints, score_records
from masked_residual_calls import newton_calls
from test_surface import CALLABLES

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12)
LABELS = np.arange(12) % 2
IDS = np.arange(100, 112)
STEP = {"noise_std": 1.0, "step_size": 0.1, "sampling_probability": 0.5, "batch_size": 1.0}
TARGET = {"epsilon": 1.0, "delta": 1e-3, "n_steps": 5}
PAIR = GaussianPair([0.1, 0.2], [[1.0], [1.0]])
LAW = LearningLaw(X, Y[:, None], alpha=1.0, step_size=0.01, n_steps=20, noise_std=0.1)
MODEL = LangevinRidge(noise_std=0.1, n_steps=20, random_state=0).fit(X, Y, record_ids=IDS)
CLASSES = LangevinRidgeClassifier(noise_std=0.1, n_steps=20, random_state=0).fit(X, LABELS)
PHASES = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
RUN = RidgeRun(
    estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.01, classes=None, n_records=12,
    n_features=3, n_outputs=1, phases=PHASES, deleted=(0,),
)  # fmt: skip
CLAIM = {"run": RUN, "epsilon": 9.0, "delta": 0.1}
CERTIFICATE = Certificate.create(X=X, y=Y, model=np.zeros((3, 1)), **CLAIM)
PROBE = {"loss": "softmax", "n_steps": 9, **STEP}
PAIRS = RNG.normal(size=(6, 4))
BAND = reference_band(RNG.normal(size=5))
LOG_FIT = fit_log_steps(np.array([1.0, 2, 3]), np.array([1.0, 2, 4]))
SCALER = ConstantScaler(np.full(3, -9.0), np.full(3, 9.0)).fit(X)
LAYER = {"activations": RNG.normal(size=(4, 2, 3)), "output_grads": RNG.normal(size=(4, 2, 5))}
TOKENS = RNG.integers(0, 5, (4, 2))

Call = tuple[Callable[..., Any], dict[str, Any]]
A, E, C = "expunge.accounting", "expunge.evaluation", "expunge.certificates"
two = np.array([1.0, 2.0])


def calls() -> dict[str, Call]:
    """Return each public function with arrays that it accepts, by the names of its arguments."""
    half = np.array([0.1, 0.2])
    scores = RNG.normal(size=12)
    calls: dict[str, Call] = {
        f"{A}.rdp.assumed_noise.assumed_noise_privacy_loss": (
            lambda grad_norms: accounting.assumed_noise_privacy_loss(
                grad_norms, assumed_noise_std=1.0, order=2.0, steps=[1, 2], n_steps=9,
                step_size=0.1, sampling_probability=0.5, batch_size=1.0,
            ),
            {"grad_norms": np.ones((2, 2))},
        ),
        f"{A}.rdp.assumed_noise.noise_sensitivity": (
            lambda grad_norms, **more: accounting.noise_sensitivity(
                grad_norms, order=2.0, steps=[1, 2], n_steps=9,
                step_size=0.1, sampling_probability=0.5, batch_size=1.0, **more,
            ),
            {"grad_norms": RNG.uniform(1, 2, (8, 2)), "noise_levels": two, "top": half},
        ),
        f"{A}.rdp.composition.composition_rdp": (
            lambda grad_norms, **more: accounting.composition_rdp(grad_norms, order=2.0, l2_bound=9.0, **STEP, **more),
            {"grad_norms": np.ones((2, 2)), "p": two + 1},
        ),
        f"{A}.rdp.composition.composition_rdp of some steps": (
            lambda steps: accounting.composition_rdp(
                np.ones((2, 2, 2)), order=2.0, l2_bound=9.0, steps=steps, n_steps=9, **STEP
            ),
            {"steps": [0, 1]},
        ),
        f"{A}.unlearning.contraction.contraction_rdp": (
            lambda rdp, **more: accounting.contraction_rdp(rdp, order=2.0, n_steps=2, **more),
            {"rdp": two, "log_sobolev": two, "contraction": half, "noise_std": two},
        ),
        f"{A}.unlearning.contraction.contraction_steps": (
            lambda rdp, **more: accounting.contraction_steps(rdp, contraction=0.9, noise_std=1.0, **more),
            {"rdp": two, "order": two + 1, "log_sobolev": two, "target_rdp": half},
        ),
        f"{A}.unlearning.contraction.weak_triangle_rdp": (
            accounting.weak_triangle_rdp,
            {"rdp_pr": two, "rdp_rq": two, "order": two + 1},
        ),
        f"{A}.gaussian_pair.GaussianPair.__init__": (
            GaussianPair,
            {"excess_variance": half, "shift": np.ones((2, 1))},
        ),
        f"{A}.gaussian_pair.GaussianPair.delta": (PAIR.delta, {"epsilon": two}),
        f"{A}.gaussian_pair.GaussianPair.epsilon": (PAIR.epsilon, {"delta": half}),
        f"{A}.gaussian_pair.GaussianPair.profile": (PAIR.profile, {"epsilon": two}),
        f"{A}.gaussian_pair.GaussianPair.renyi": (PAIR.renyi, {"order": two + 0.5}),
        f"{A}.gdp.gdp_delta": (accounting.gdp_delta, {"mu": two, "epsilon": two}),
        f"{A}.gdp.gdp_epsilon": (accounting.gdp_epsilon, {"mu": two, "delta": half}),
        f"{A}.gdp.gdp_mu": (accounting.gdp_mu, {"epsilon": two, "delta": half}),
        f"{A}.unlearning.predicted_steps.LogFit.predict": (LOG_FIT.predict, {"privacy_loss": two}),
        f"{A}.unlearning.predicted_steps.LogFit.prediction_interval": (
            LOG_FIT.prediction_interval,
            {"privacy_loss": two},
        ),
        f"{A}.unlearning.predicted_steps.fit_log_steps": (
            fit_log_steps,
            {"privacy_loss": np.array([1.0, 2, 3]), "steps": np.array([1.0, 2, 4])},
        ),
        f"{A}.unlearning.predicted_steps.predict_steps": (
            lambda privacy_loss: accounting.predict_steps(
                privacy_loss, order=2.0, log_sobolev=1.0, contraction=0.9, noise_std=1.0, target_rdp=0.1
            ),
            {"privacy_loss": two},
        ),
        f"{A}.rdp.privacy_loss.privacy_loss": (
            lambda grad_norms, **more: accounting.privacy_loss(
                grad_norms, n_steps=9, sampling_probability=0.5, batch_size=1.0, **more
            ),
            {"grad_norms": np.ones((2, 2)), "order": two + 1, "noise_std": two, "step_size": half, "steps": [1, 2]},
        ),
        f"{A}.rdp.group_loss.group_privacy_loss": (
            lambda grad_norms, **more: accounting.group_privacy_loss(
                grad_norms, n_steps=9, sampling_probability=1.0, batch_size=1.0, **more
            ),
            {
                "grad_norms": np.ones((2, 2)), "order": two + 1, "noise_std": two, "step_size": half,
                "steps": [1, 2], "group_norms": np.ones(2),
            },
        ),
        f"{A}.discrete_gaussian.DiscreteGaussian.rdp": (
            accounting.DiscreteGaussian(2.0).rdp,
            {"order": two + 1, "sensitivity": two},
        ),
        f"{A}.rdp.privacy_loss.quadrature_weights": (
            lambda steps: accounting.quadrature_weights(steps, n_steps=9),
            {"steps": [1, 2]},
        ),
        f"{A}.rdp.conversion.rdp_to_epsilon": (
            accounting.rdp_to_epsilon,
            {"rdp": two, "order": two + 1, "delta": np.array(1e-5)},
        ),
        f"{A}.gaussian_filter.GaussianFilter.__init__": (
            lambda budget: GaussianFilter(budget, n_records=2, noise_std=1.0, step_size=0.1, batch_size=1.0),
            {"budget": two},
        ),
        f"{A}.gaussian_filter.GaussianFilter.charge": (
            GaussianFilter(9.0, n_records=2, noise_std=1.0, step_size=0.1, batch_size=1.0).charge,
            {"grad_norms": two},
        ),
        f"{A}.rdp.renyi_filter.RenyiFilter.__init__": (
            lambda order, budget: RenyiFilter(order, budget, n_records=2, **STEP),
            {"order": two + 1, "budget": two},
        ),
        f"{A}.rdp.renyi_filter.RenyiFilter.charge": (
            RenyiFilter(2.0, 9.0, n_records=2, **STEP).charge,
            {"grad_norms": two},
        ),
        f"{A}.rdp.sampled_gaussian.sampled_gaussian_rdp": (
            accounting.sampled_gaussian_rdp,
            {"order": two + 1, "noise_multiplier": two, "sampling_probability": half},
        ),
        f"{A}.shifted.shifted_mu": (
            accounting.shifted_mu,
            {"sensitivity": two, "contraction": half, "noise_std": two},
        ),
        f"{C}.certificate.Certificate.create": (
            lambda **more: Certificate.create(**CLAIM, **more),
            {"X": X, "y": Y, "model": np.zeros((3, 1))},
        ),
        f"{C}.certificate.Certificate.verify": (CERTIFICATE.verify, {"X": X, "y": Y, "model": np.zeros((3, 1))}),
        f"{C}.digest.features_digest": (certificates.features_digest, {"X": X}),
        f"{C}.digest.model_digest": (certificates.model_digest, {"coefficients": np.ones((3, 1))}),
        f"{C}.digest.record_digest": (
            lambda X, y: certificates.record_digest(X, y, salt=bytes(32)),
            {"X": X, "y": Y},
        ),
        f"{C}.digest.targets_digest": (certificates.targets_digest, {"y": Y}),
        "expunge.runs.ridge.run.RidgeRun.check": (lambda X, y: RUN.check(X, y, conditions=()), {"X": X, "y": Y}),
        "expunge.runs.ridge.release.coefficients_of": (
            lambda model: certificates.coefficients_of(model, fit_intercept=False, n_features=3, n_outputs=1),
            {"model": np.zeros((3, 1))},
        ),
        "expunge.data.cosines.random_cosine_features": (
            lambda X: data.random_cosine_features(X, n_features=2, scale=1.0, seed=0),
            {"X": X},
        ),
        "expunge.data.identifiers.exact_ids": (data.exact_ids, {"ids": IDS}),
        "expunge.data.loading.load": (
            lambda divide_by: data.load("iris", divide_by=divide_by),
            {"divide_by": np.full(4, 2.0)},
        ),
        "expunge.data.array_records.ArrayRecords.__init__": (data.ArrayRecords, {"X": X, "y": Y, "ids": IDS}),
        "expunge.data.statistics.RidgeStatistics.of": (
            lambda table, y, classes: data.RidgeStatistics.of(table, y, classes=classes),
            {"table": X, "y": LABELS, "classes": np.array([0, 1])},
        ),
        "expunge.data.opening.open_records": (data.open_records, {"source": X, "target": Y, "ids": IDS}),
        "expunge.data.tasks.read_task": (data.read_task, {"y": LABELS}),
        "expunge.estimators.released.ReleasedRidge.predict": (MODEL.release().predict, {"X": X}),
        "expunge.estimators.released.ReleasedRidgeClassifier.predict": (CLASSES.release().predict, {"X": X}),
        "expunge.estimators.released.ReleasedRidgeClassifier.decision_function": (
            CLASSES.release().decision_function,
            {"X": X},
        ),
        "expunge.estimators.ridge.LangevinRidge.fit": (
            LangevinRidge(noise_std=0.1).fit,
            {"X": X, "y": Y, "record_ids": IDS},
        ),
        "expunge.estimators.ridge.LangevinRidge.predict": (MODEL.predict, {"X": X}),
        "expunge.estimators.ridge.LangevinRidge.score": (MODEL.score, {"X": X, "y": Y}),
        "expunge.estimators.ridge.LangevinRidge.quote rows": (
            lambda rows: MODEL.quote(rows=rows, **TARGET),
            {"rows": [0, 1]},
        ),
        "expunge.estimators.ridge.LangevinRidge.quote ids": (
            lambda ids: MODEL.quote(ids=ids, **TARGET),
            {"ids": IDS[:2]},
        ),
        "expunge.estimators.ridge.LangevinRidge.quote groups": (
            lambda groups: MODEL.quote(groups=groups, **TARGET),
            {"groups": np.arange(12) // 2},
        ),
        "expunge.estimators.ridge.LangevinRidge.unlearn rows": (
            lambda rows, noise_grid: MODEL.unlearn(rows=rows, noise_grid=noise_grid, **TARGET),
            {"rows": [0, 1], "noise_grid": np.array([1.0, 50.0])},
        ),
        "expunge.estimators.ridge.LangevinRidge.unlearn ids": (
            lambda ids: MODEL.unlearn(ids=ids, **TARGET),
            {"ids": IDS[:2]},
        ),
        "expunge.estimators.ridge.LangevinRidge.downdate": (lambda rows: MODEL.downdate(rows=rows), {"rows": [0, 1]}),
        "expunge.estimators.ridge.LangevinRidge.privacy_profile": (
            lambda rows: MODEL.privacy_profile(rows=rows),
            {"rows": [0, 1]},
        ),
        "expunge.estimators.ridge.LangevinRidgeClassifier.__init__": (
            lambda classes: LangevinRidgeClassifier(classes=classes, noise_std=0.1).fit(X, LABELS),
            {"classes": np.arange(2)},
        ),
        "expunge.estimators.ridge.LangevinRidgeClassifier.fit": (
            LangevinRidgeClassifier(noise_std=0.1).fit,
            {"X": X, "y": LABELS, "record_ids": IDS},
        ),
        "expunge.estimators.ridge.LangevinRidgeClassifier.predict": (CLASSES.predict, {"X": X}),
        "expunge.estimators.ridge.LangevinRidgeClassifier.score": (CLASSES.score, {"X": X, "y": LABELS}),
        "expunge.estimators.ridge.LangevinRidgeClassifier.decision_function": (CLASSES.decision_function, {"X": X}),
        f"{E}.audit.audited_epsilon": (
            lambda runs_p, runs_q: evaluation.audited_epsilon(runs_p, runs_q, delta=0.0),
            {"runs_p": scores, "runs_q": scores},
        ),
        f"{E}.bands.Band.holds": (BAND.holds, {"values": two}),
        f"{E}.bands.reference_band": (reference_band, {"values": scores}),
        f"{E}.barrier.barrier_from_losses": (
            evaluation.barrier_from_losses,
            {"t": np.array([0.0, 0.5, 1.0]), "losses": np.array([1.0, 2.0, 1.0])},
        ),
        f"{E}.influence.influence": (
            lambda X, y: evaluation.influence(X, y, loss="squared", alpha=1.0),
            {"X": X, "y": Y},
        ),
        f"{E}.influence.influence of groups": (
            lambda groups: evaluation.influence(X, LABELS, loss="logistic", alpha=1.0, groups=groups),
            {"groups": [np.array([0, 1])]},
        ),
        f"{E}.gus.gaussian_unlearning_score": (
            lambda **more: evaluation.gaussian_unlearning_score(sigma=1.0, **more),
            {"poisons": PAIRS, "gradients": PAIRS},
        ),
        f"{E}.membership.auc": (evaluation.auc, {"positive": scores, "negative": scores}),
        f"{E}.membership.membership_auc": (
            lambda **more: evaluation.membership_auc(seed=0, n_resamples=100, **more),
            {"forget": scores, "heldout": scores, "reference_forget": scores, "reference_heldout": scores},
        ),
        f"{E}.predictions.predictions_from_logits": (
            evaluation.predictions_from_logits,
            {"logits": RNG.normal(size=(12, 2)), "labels": LABELS},
        ),
        f"{E}.times.time_to_unlearn": (
            lambda **more: evaluation.time_to_unlearn(band=BAND, **more),
            {"steps": [1, 2], "values": two},
        ),
        f"{E}.ulira.ulira": (
            lambda **more: evaluation.ulira(seed=0, n_resamples=100, **more),
            {"unlearned": RNG.normal(size=(6, 4)), "retrained": RNG.normal(size=(6, 4))},
        ),
        "expunge.forget_sets.top_forget_set": (
            lambda **more: forget_sets.top_forget_set(size=2, **more),
            {"scores": scores, "labels": LABELS},
        ),
        "expunge.forget_sets.bottom_forget_set": (
            lambda **more: forget_sets.bottom_forget_set(size=2, **more),
            {"scores": scores, "labels": LABELS},
        ),
        "expunge.forget_sets.quantile_forget_set": (
            lambda **more: forget_sets.quantile_forget_set(low=0.1, high=0.9, **more),
            {"scores": scores, "labels": LABELS},
        ),
        "expunge.forget_sets.random_forget_set": (
            lambda labels: forget_sets.random_forget_set(n_records=12, size=2, seed=0, labels=labels),
            {"labels": LABELS},
        ),
        "expunge.grad_norms.linear.linear_grad_norms": (norms.linear_grad_norms, LAYER),
        "expunge.grad_norms.linear.linear_grad_dots": (
            norms.linear_grad_dots,
            {f"{name}_{i}": value for name, value in LAYER.items() for i in (1, 2)},
        ),
        "expunge.grad_norms.embedding.embedding_grad_norms": (
            norms.embedding_grad_norms,
            {"indices": TOKENS, "output_grads": LAYER["output_grads"]},
        ),
        "expunge.grad_norms.embedding.embedding_linear_grad_dots": (
            norms.embedding_linear_grad_dots,
            {
                "indices": TOKENS,
                "embedding_grads": RNG.normal(size=(4, 2, 3)),
                "row_factors": RNG.normal(size=(4, 2, 5)),
                "column_factors": RNG.normal(size=(4, 2, 3)),
            },
        ),
        "expunge.grad_norms.together.group_grad_norms": (
            lambda **more: norms.group_grad_norms(layer="linear", **more),
            {**LAYER, "example_groups": np.arange(len(LAYER["activations"]))},
        ),
        "expunge.grad_norms.conv.conv_grad_norms": (
            lambda **more: norms.conv_grad_norms(kernel_size=1, **more),
            {"activations": RNG.normal(size=(4, 2, 3)), "output_grads": RNG.normal(size=(4, 5, 3))},
        ),
        "expunge.grad_norms.norm_layer.norm_layer_grad_norms": (
            norms.norm_layer_grad_norms,
            {"activations": RNG.normal(size=(4, 3)), "output_grads": RNG.normal(size=(4, 3))},
        ),
        "expunge.grad_norms.probe.probe_grad_norms": (
            norms.probe_grad_norms,
            {"X": X, "weights": RNG.normal(size=(2, 3, 2)), "y": LABELS, "checkpoint_weights": two},
        ),
        "expunge.langevin.chains.langevin_chains": (
            lambda X, y, **more: langevin_chains(X, y, alpha=1.0, n_steps=3, seed=0, **more),
            {
                "X": X,
                "y": Y,
                "step_size": np.full(3, 0.01),
                "noise_std": np.full(3, 0.1),
                "theta0": np.zeros((3, 1)),
                "record": np.array([1, 2]),
            },
        ),
        "expunge.runs.ridge.exact.exact_quotes": (
            lambda records: exact_quotes(LAW, records, **TARGET),
            {"records": [0, 1]},
        ),
        "expunge.runs.ridge.exact.exact_group_quotes": (
            lambda groups: exact_group_quotes(LAW, groups, **TARGET),
            {"groups": np.array([[0, 1]])},
        ),
        "expunge.runs.ridge.shifted.shifted_quotes": (
            lambda records: shifted_quotes(LAW, records, **TARGET),
            {"records": [0, 1]},
        ),
        "expunge.runs.ridge.shifted.shifted_group_quotes": (
            lambda groups: shifted_group_quotes(LAW, groups, **TARGET),
            {"groups": np.array([[0, 1]])},
        ),
        "expunge.runs.ridge.shifted.smallest_eigenvalues": (
            lambda records: smallest_eigenvalues(LAW, records),
            {"records": [0, 1]},
        ),
        "expunge.runs.ridge.spectral.LearningLaw.__init__": (
            lambda **more: LearningLaw(alpha=1.0, step_size=0.01, n_steps=20, noise_std=0.1, **more),
            {"design": X, "targets": Y[:, None]},
        ),
        "expunge.runs.ridge.spectral.LearningLaw.projected": (LAW.projected, {"records": [0, 1]}),
        "expunge.runs.ridge.spectral.LearningLaw.residual_means": (LAW.residual_means, {"records": [0, 1]}),
        "expunge.runs.ridge.spectral.LearningLaw.residual_variances": (LAW.residual_variances, {"records": [0, 1]}),
        "expunge.data.scaling.ConstantScaler.__init__": (
            lambda low, high: ConstantScaler(low, high).fit(X),
            {"low": np.full(3, -9.0), "high": np.full(3, 9.0)},
        ),
        "expunge.data.scaling.ConstantScaler.fit": (SCALER.fit, {"X": X}),
        "expunge.data.scaling.ConstantScaler.transform": (SCALER.transform, {"X": X}),
        "expunge.data.scaling.ConstantScaler.inverse_transform": (SCALER.inverse_transform, {"X": X}),
        "expunge.data.reading.Reading.mapped": (Reading(3).mapped, {"X": X}),
        "expunge.data.scaling.ConstantScaler.from_data": (ConstantScaler.from_data, {"X": X}),
        "expunge.scoring.checkpoints.ProbeCheckpoints.__init__": (
            lambda **more: ProbeCheckpoints(**PROBE, **more),
            {"weights": RNG.normal(size=(2, 3, 2)), "steps": [1, 2]},
        ),
        "expunge.scoring.measures.score_records": (
            lambda X, y: score_records(X, y, ProbeCheckpoints(weights=np.zeros((1, 3, 2)), steps=[1], **PROBE)),
            {"X": X, "y": LABELS},
        ),
    }  # fmt: skip
    if find_spec("matplotlib") is not None:
        from expunge.plotting import plot_attack, plot_deletions, plot_noise, plot_profile
        from expunge.scoring import plot_loss_against_proxies, plot_loss_distribution

        quote = MODEL.quote(**TARGET)
        calls |= {
            "expunge.plotting.attack.plot_attack": (
                lambda noise_std, **more: plot_attack(noise_std, delta=1e-5, **more),
                {"noise_std": two, "cosine": [[0.5], [0.6]], "epsilon": [[2.0], [1.0]], "chance": [0.1, 0.2]},
            ),
            "expunge.plotting.deletions.plot_deletions": (
                lambda epsilon, choices: plot_deletions(epsilon, noise_std=0.1, choices=choices),
                {"epsilon": two, "choices": np.array([[0.1, 0.2], [0.5, 0.6], [0.8, 0.9]])},
            ),
            "expunge.plotting.costs.plot_noise": (
                lambda accuracy: plot_noise([quote], accuracy=accuracy),
                {"accuracy": np.array([[0.1, 0.2], [0.5, 0.6]])},
            ),
            "expunge.plotting.costs.plot_profile": (lambda epsilon: plot_profile(PAIR, epsilon), {"epsilon": two}),
            "expunge.scoring.plots.plot_loss_against_proxies": (
                lambda privacy_loss, proxies: plot_loss_against_proxies(privacy_loss, {"proxies": proxies}),
                {"privacy_loss": scores**2, "proxies": scores},
            ),
            "expunge.scoring.plots.plot_loss_distribution": (plot_loss_distribution, {"privacy_loss": scores**2}),
        }
    return calls


def proof_calls():
    """Return calls of proofs, where python-flint is installed."""
    if not find_spec("flint"):
        return {}
    from expunge import proof

    two = np.array([2.0, 3.0])
    steps = {"sensitivity": two, "contraction": two / 4, "noise_std": two}
    rdp = lambda rdp, order: proof.rdp_to_epsilon(rdp, order, delta=1e-5)  # noqa: E731
    return {
        "expunge.proof.minorant.shifted_mu": (proof.shifted_mu, steps),
        "expunge.proof.rdp.rdp_to_epsilon": (rdp, {"rdp": two, "order": two}),
    }


CALLS = calls() | newton_calls() | proof_calls()
# Estimates are made by the library, of its own results; no number of theirs is somebody's.
NOT_GIVEN = {f"{A}.estimate.Estimate.of", "expunge.runs.base.Run.check"}  # the second is a protocol


def test_every_public_function_that_takes_arrays_is_called_here():
    missing = []
    for name, function in CALLABLES.items():
        if "torch" in name or "networks" in name or "experiments" in name or name in NOT_GIVEN:
            continue  # tensors have no mask; experiments take settings
        given = {p.name for p in inspect.signature(function).parameters.values() if "ArrayLike" in str(p.annotation)}
        used = set().union(*(arrays for called, (_, arrays) in CALLS.items() if called.split()[0] == name))
        missing += [f"{name}: {argument}" for argument in sorted(given - used) if not name.endswith("shadow_margins")]
        missing += [name] if name.startswith("expunge.grad_norms.") and not used else []
    assert not missing, "\n".join(missing)


@pytest.mark.filterwarnings("ignore")  # of noise that costs, of bounds taken from data
@pytest.mark.parametrize("name", CALLS)
def test_what_a_mask_hides_is_never_read(name):
    call, arrays = CALLS[name]
    call(**arrays)
    for argument, value in arrays.items():
        values = np.asarray(value)
        mask = np.zeros(values.shape, dtype=bool)
        mask[(0,) * values.ndim] = True
        with pytest.raises((TypeError, ValueError), match=rf"{argument}\b.*mask"):
            call(**{**arrays, argument: np.ma.array(values, mask=mask)})
