"""Every public type of results says in ``status`` whether it is certified, conditional or an estimate."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest

import expunge
from expunge import evaluation

STATUSES = {"certified", "conditional", "estimate", "published"}
# Public dataclasses that claim nothing: what is given, kept, looked up or passed on.
NO_RESULTS = {
    "expunge.accounting.discrete_gaussian.DiscreteGaussian": "a law; what it computes of it is rounded outward",
    "expunge.accounting.gaussian_pair.GaussianPair": "a pair of laws; what it computes of them is rounded outward",
    "expunge.accounting.pair_error.Nearness": "bounds that a pair of laws comes with",
    "expunge.estimators.noise_warning.TrainingSums": "sums over what is fitted",
    "expunge.estimators.quotes.Claim": "what was asked for",
    "expunge.torch.training.budgets.RecordBudgets": "what is asked for",
    "expunge.torch.training.privacy.Privacy": "what is asked for",
    "expunge.torch.ensemble.group.Member": "a model and what it is trained on",
    "expunge.torch.ensemble.plan.Plan": "layers of a model",
    "expunge.estimators.quotes.QuoteTable": "columns of a quote, which has the status",
    "expunge.runs.ridge.table_sums.TableSums": "data",
    "expunge.runs.ridge.law.LawPair": "a pair of laws",
    "expunge.runs.ridge.chain.ExactEquations": "data",
    "expunge.runs.ridge.program.Program": "part of a run",
    "expunge.runs.ridge.kept_law.KeptLaw": "a law, with bounds on its rounding",
    "expunge.certificates.document.Digests": "part of a certificate",
    "expunge.certificates.residual.agreed_noise": "seeds of noise, and what parties say of them",
    "expunge.certificates.residual.evidence.ResidualEvidence": "the certificate that it is evidence of has the status",
    "expunge.certificates.residual.format.ResidualDigests": "part of a certificate",
    "expunge.certificates.residual.format.ResidualModel": "part of a certificate",
    "expunge.certificates.residual.format.ResidualNoise": "part of a certificate",
    "expunge.certificates.residual.proofs": "about hashes; says in words what it shows",
    "expunge.certificates.residual.tree.Leaves": "hashes",
    "expunge.certificates.statement.ProofStatement": "about a certificate, which has the status",
    "expunge.certificates.signed.Signature": "part of a certificate",
    "expunge.certificates.signed.SignedDocument": "what certificates have in common; each has its own status",
    "expunge.data.constants.Sources": "part of a run",
    "expunge.certificates.network.evidence.NetworkEvidence": "the certificate that it is evidence of has the status",
    "expunge.certificates.network.format.Backbone": "part of a certificate",
    "expunge.certificates.policy.Policy": "settings",
    "expunge.accounting.private_training.PrivateTraining": "constants; what it computes of them is rounded outward",
    "expunge.estimators.network.features.FrozenBackbone": "what computes features",
    "expunge.proof.coordinates.Coordinates": "a pair of laws, as balls",
    "expunge.runs.enclosures.Proof": "says in its outcome what is proved; the report that holds it has the status",
    "expunge.runs.residual.inverse.InverseHessian": "a preconditioner, on which no claim depends",
    "expunge.runs.residual.newton.Polished": "parameters with a bound; the certificate about them has the status",
    "expunge.runs.residual.objective": "records and a loss",
    "expunge.runs.residual.gradients.GradientSums": "sums over rows, with a bound on their rounding",
    "expunge.runs.residual.proved_inverse.ProvedInverse": "matrices, with bounds on their errors",
    "expunge.runs.residual.derivatives": "derivatives of rows, with bounds on their rounding",
    "expunge.runs.residual.one_step.PartQuotes": "what quotes are made of",
    "expunge.runs.residual.products.Products": "products as computed, with a bound on their rounding",
    "expunge.runs.ridge.dynamics.NormalEquations": "the equations of a fit",
    "expunge.runs.ridge.history.RidgeHistory": "what happened; the certificate about it has the status",
    "expunge.runs.ridge.inputs.RidgeInputs": "what happened; the certificate about it has the status",
    "expunge.runs.ridge.release.ReleaseLaw": "a law",
    "expunge.runs.ridge.run.RidgeProblem": "a run beside its data",
    "expunge.runs.ridge.run.RidgeRun": "what happened; the certificate about it has the status",
    "expunge.evaluation.intervals.Placements": "sorted scores",
    "expunge.evaluation.metrics.Metric": "a definition",
    "expunge.evaluation.networks.groups.Label": "a mark on a tensor while a model is traced",
    "expunge.evaluation.networks.permutations.PermutationSpec": "a model's structure, tested when it is used",
    "expunge.evaluation.predictions.Predictions": "a model's outputs as they are",
    "expunge.experiments": "settings and subjects",
    "expunge.estimators.newton.tables": "records that stay in their tables",
    "expunge.estimators.newton.working": "what a working model holds; the certificate about it has the status",
    "expunge.estimators.noise_warning.TrainingData": "what is fitted",
    "expunge.forget_sets.ForgetSet": "records that were chosen",
    "expunge.ledger.ledger.DeletionRequest": "what is asked",
    "expunge.ledger.entries.EnteredRequest": "what was asked",
    "expunge.runs.ridge.law.Phase": "part of a run",
    "expunge.cli": "what a command read",
    "expunge.data": "tables",
    "expunge.distributed.machine.Machine": "versions of a process",
    "expunge.scoring.checkpoints.ProbeCheckpoints": "what is scored",
    "expunge.scoring.job.Job": "what is scored",
    "expunge.scoring.shards": "files and columns",
    "expunge.scoring.sources.Block": "rows of a file",
    "expunge.torch.training.step.Visit": "a training step",
    "expunge.torch.unlearning.adaptive.ForgetBin": "records that were chosen",
    "expunge.torch.unlearning.engine.Settings": "settings",
}


def public_dataclasses():
    found = {}
    for module in pkgutil.walk_packages(expunge.__path__, "expunge."):
        if any(part.startswith("_") for part in module.name.split(".")[1:]):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:  # of an extra that is not installed
            continue
        for name in getattr(loaded, "__all__", ()):
            value = getattr(loaded, name, None)
            if inspect.isclass(value) and dataclasses.is_dataclass(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


def claims_nothing(name):
    return any(name == one or name.startswith(f"{one}.") for one in NO_RESULTS)


def test_every_public_type_of_results_has_a_status():
    found = public_dataclasses()
    assert {"expunge.evaluation.bands.Band", "expunge.runs.ridge.exact.ExactQuotes"} <= set(found)
    without = []
    for name, kind in found.items():
        if claims_nothing(name):
            continue
        given = {field.name: field for field in dataclasses.fields(kind)}
        if "status" in given:
            default = given["status"].default
            if default is not dataclasses.MISSING and str(default).split(":")[0].split(" ")[0] not in STATUSES:
                without.append(name)
        elif not isinstance(inspect.getattr_static(kind, "status", None), property):
            without.append(name)
    assert not without, f"must have a field or property status, or a line in NO_RESULTS that says why not: {without}"


def test_nothing_is_excused_that_has_a_status():
    excused = {n: k for n, k in public_dataclasses().items() if claims_nothing(n)}
    assert not [name for name, kind in excused.items() if "status" in {f.name for f in dataclasses.fields(kind)}]


def results():
    rng = np.random.default_rng(0)
    band = evaluation.reference_band([0.8, 0.84])
    barrier = evaluation.barrier_from_losses([0, 0.5, 1], [0, 1, 0])
    shadows = evaluation.shadow_margins(
        np.random.default_rng, np.random.default_rng, lambda m: m.normal(size=4), n_shadows=4
    )
    return [
        band,
        barrier,
        shadows,
        barrier.measured(baseline=[barrier, barrier]),
        evaluation.ulira(shadows.unlearned, shadows.retrained),
        evaluation.membership_auc([1.0, 2.0], [0.0, 1.0]),
        evaluation.time_to_unlearn([0, 1], [1.0, 0.82], band),
        evaluation.audited_epsilon(rng.normal(size=9), rng.normal(size=9), delta=0.1),
        evaluation.gaussian_unlearning_score(rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), sigma=1.0),
        evaluation.Report((barrier.measured(),)),
    ]


@pytest.mark.parametrize("result", results(), ids=lambda one: type(one).__name__)
def test_a_status_is_seen_kept_and_not_given(result):
    assert result.status == "estimate"
    assert "status='estimate'" in repr(result)
    assert dataclasses.replace(result).status == "estimate"
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(result, status="certified")
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.status = "certified"
    if hasattr(result, "to_dict"):
        assert result.to_dict()["status"] == "estimate"


def test_a_band_keeps_its_status_within_other_results():
    band = evaluation.reference_band([0.8, 0.84])
    row = evaluation.Measured(evaluation.METRICS["UA"], 0.9, band=band)
    assert row.to_dict()["band"]["status"] == "estimate"


@pytest.mark.parametrize("function", [evaluation.auc, evaluation.proportion_interval])
def test_functions_that_return_plain_numbers_say_so_in_their_documentation(function):
    assert re.search(r"\*[Ee]stimate\*", inspect.getdoc(function))
