"""Training that keeps a budget for every record: a loop by hand, an attacker, bars, resumption, claims with a head."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge import CertifiedHead, NewtonLogisticRegression  # noqa: E402
from expunge.accounting import GaussianFilter, PrivateTraining, gdp_epsilon  # noqa: E402
from expunge.certificates.network import NetworkCertificate, page_of, verify  # noqa: E402
from expunge.certificates.schema import CertificateError, VerificationError  # noqa: E402
from expunge.evaluation import audited_epsilon  # noqa: E402
from expunge.langevin import standard_normals  # noqa: E402
from expunge.torch import BudgetedPrivacy, RecordBudgets, TrainingRun, train  # noqa: E402
from expunge.torch.training.sampling import stream_seed  # noqa: E402
from expunge.torch.training.step import cross_entropy  # noqa: E402
from small_training import data, network, weights_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

BUDGETS = RecordBudgets(budgets=0.5, clip=0.7, noise_multiplier=8.0)
SETTINGS = {"step_size": 0.4, "batch_size": 60, "n_steps": 24, "n_checkpoints": 3, "progress": False}


def halved_squares(output, target):
    return 0.5 * (output[:, 0] - target).square()


@pytest.mark.parametrize("one_budget", [True, False])
def test_a_linear_model_by_hand(one_budget):
    """Every gradient is known: (w x - y) x. Who is charged what, who takes part, and where the weights go."""
    rng = np.random.default_rng(5)
    n, d, steps, eta, alpha, clip, z = 20, 3, 40, 0.3, 0.02, 1.0, 9.0
    X = rng.normal(size=(n, d)) * rng.uniform(0.2, 2.0, size=(n, 1))
    y = X @ np.array([1.0, -0.5, 0.3]) + 0.2 * rng.normal(size=n)
    budgets = 0.4 if one_budget else rng.uniform(0.0, 0.6, size=n)
    model = nn.Linear(d, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    run = train(model, (torch.tensor(X), torch.tensor(y)), loss=halved_squares, step_size=eta, batch_size=n,
                n_steps=steps, alpha=alpha, n_checkpoints=4, progress=False, seed=11,
                privacy=RecordBudgets(budgets=budgets, clip=clip, noise_multiplier=z))  # fmt: skip

    w, squares, barred = np.zeros(d), np.zeros(n), np.full(n, -1)
    room, seen = 1 + 1e-9, np.full((steps, n), np.nan)
    for t in range(steps):
        gradients = (X @ w - y)[:, None] * X
        norms = np.linalg.norm(gradients, axis=1)
        gradients *= np.minimum(1.0, clip / norms)[:, None]
        cost = (np.linalg.norm(gradients, axis=1) / (z * clip)) ** 2
        seen[t, barred < 0] = norms[barred < 0]
        barred[(barred < 0) & (squares + cost > np.broadcast_to(budgets, n) ** 2)] = t
        part = barred < 0
        squares[part] += cost[part]
        noise = standard_normals(d, seed=stream_seed(11, "noise", 0), step=t, dtype=np.float64)
        w = (1 - eta * alpha) * w - eta / n * gradients[part].sum(axis=0) + z * clip * room * eta / n * noise

    assert 3 < (barred >= 0).sum() < n
    np.testing.assert_array_equal(run.privacy.barred_at, barred)
    np.testing.assert_array_equal(run.privacy.active, barred < 0)
    np.testing.assert_allclose(run.privacy.spent, np.sqrt(squares), rtol=1e-8)
    assert (run.privacy.spent >= np.sqrt(squares) * (1 - 1e-12)).all()
    assert (run.privacy.spent <= budgets).all()
    np.testing.assert_allclose(model.weight.detach().numpy()[0], w, rtol=1e-7)
    np.testing.assert_array_equal(run.privacy.budget, np.broadcast_to(budgets, n))
    # Norms are collected up to the step that bars, and no further.
    last = np.where(barred < 0, steps - 1, barred)
    np.testing.assert_array_equal(run.steps[:, -1], last)
    np.testing.assert_allclose(run.grad_norms[:, -1], seen[last, np.arange(n)], rtol=1e-6)


def along_x(output, target):
    return output[:, 0] + 0.0 * target


def attacked(*, seeds, n_steps=9):
    """Return what an attacker sees of runs with a record whose gradient is as long as may be, and without it."""
    asked = RecordBudgets(budgets=0.7, clip=1.0, noise_multiplier=1.5)  # one step of the longest gradients
    x, y = torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    x[0] = 1e3
    found = {}
    for side, rows in (("with", [0, 1, 2]), ("without", [1, 2])):
        seen = []
        for seed in range(seeds):
            model = nn.Linear(1, 1, bias=False).double()
            nn.init.zeros_(model.weight)
            # The same constants on both sides: step size over batch size.
            train(model, (x[rows], y[rows]), loss=along_x, privacy=asked, batch_size=len(rows), n_steps=n_steps,
                  step_size=len(rows) / 3, n_checkpoints=1, collect="none", progress=False,
                  seed=seed + (10_000 if side == "with" else 0))  # fmt: skip
            seen.append(-float(model.weight.detach()[0, 0]))
        found[side] = np.array(seen)
    return found


def audit(found):
    return max(
        audited_epsilon(found[a], found[b], delta=1e-2, confidence=0.99).epsilon
        for a, b in (("with", "without"), ("without", "with"))
    )


def test_an_attacker_who_sees_the_weights_learns_no_more_than_the_budget():
    claimed = gdp_epsilon(0.7, 1e-2)
    found = attacked(seeds=300)
    assert audit(found) <= claimed
    assert found["with"].mean() - found["without"].mean() > 0.1  # the record took part


def test_the_attacker_notices_when_nothing_is_charged(monkeypatch):
    monkeypatch.setattr(GaussianFilter, "charge", lambda self, norms: np.ones(norms.size, dtype=bool))
    assert audit(attacked(seeds=150, n_steps=12)) > gdp_epsilon(0.7, 1e-2)


def test_what_a_barred_record_holds_does_not_matter():
    x, y = data()
    budgets = np.full(60, 0.5)
    budgets[[4, 9]] = 0.0
    asked = RecordBudgets(budgets=budgets, clip=0.7, noise_multiplier=8.0)
    ends = []
    for scale in (1.0, -37.0):
        x[[4, 9]] *= scale
        run = train(model := network(), (x, y), privacy=asked, seed=3, **SETTINGS)
        ends.append(weights_of(model))
        assert run.privacy.barred_at[[4, 9]].tolist() == [0, 0]
        assert run.privacy.spent[[4, 9]].tolist() == [0.0, 0.0]
    assert torch.equal(*ends)
    # Noise and divisor are those of all 60 records: without budgets nothing moves but by noise.
    nobody = RecordBudgets(budgets=0.0, clip=0.7, noise_multiplier=8.0)
    start, model = weights_of(network()), network()
    run = train(model, (x, y), privacy=nobody, seed=3, **SETTINGS)
    assert not run.privacy.active.any()
    moved = (weights_of(model) - start).numpy()
    expected = 8.0 * 0.7 * 0.4 / 60 * np.sqrt(24)
    assert moved.std() == pytest.approx(expected, rel=0.3)
    noise = sum(standard_normals(moved.size, seed=stream_seed(3, "noise", 0), step=t, dtype=np.float64)
                for t in range(24))  # fmt: skip
    np.testing.assert_allclose(moved, run.settings["noise_std"] * noise, atol=1e-12)


def test_records_that_gradients_spare_take_part_for_longer_than_the_longest_would():
    """The point of it: as many steps as the worst case allows, and more for everybody else."""
    x, y = data()
    run = train(network(), (x, y), privacy=RecordBudgets(budgets=0.5, clip=5.0, noise_multiplier=8.0), seed=1,
                **{**SETTINGS, "n_steps": 40})  # fmt: skip
    lasting = np.where(run.privacy.active, 40, run.privacy.barred_at)
    assert (lasting > (0.5 * 8.0) ** 2).all()
    assert run.privacy.mu == 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("stop", [9, 20, 30])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, stop, dropout):
    given = {"privacy": BUDGETS, "save_seconds": 0.0, "seed": 7, **SETTINGS}
    whole = train(one := network(dropout=dropout), data(), **given)
    assert (whole.privacy.barred_at >= 0).any()
    calls = []

    def failing(output, target):
        calls.append(None)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return cross_entropy(output, target)

    failing.__module__, failing.__qualname__ = cross_entropy.__module__, cross_entropy.__qualname__
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(network(dropout=dropout), data(), loss=failing, folder=folder, **given)
    other = RecordBudgets(budgets=0.6, clip=0.7, noise_multiplier=8.0)
    with pytest.raises(ValueError, match="privacy: the run in"):
        train(network(dropout=dropout), data(), folder=folder, resume=True, **{**given, "privacy": other})
    cut = train(two := network(dropout=dropout), data(), folder=folder, resume=True, **given)
    assert torch.equal(weights_of(one), weights_of(two))
    for run in (cut, TrainingRun.load(folder)):
        np.testing.assert_array_equal(run.privacy.spent, whole.privacy.spent)
        np.testing.assert_array_equal(run.privacy.barred_at, whole.privacy.barred_at)
        np.testing.assert_array_equal(run.steps, whole.steps)
        np.testing.assert_array_equal(run.grad_norms, whole.grad_norms)


def test_single_precision_is_charged_more():
    x, y = data()
    doubles = train(network(), (x, y), privacy=BUDGETS, seed=1, **{**SETTINGS, "n_steps": 3}).privacy
    singles = train(network().float(), (x.float(), y), privacy=BUDGETS, seed=1, **{**SETTINGS, "n_steps": 3}).privacy
    assert (doubles.room, singles.room) == (1e-9, 1e-3)
    longest = np.sqrt(3) / 8.0  # the room in the noise is that in the norms
    for claim in (doubles, singles):
        assert claim.spent.max() <= longest * (1 + 1e-6)


def test_what_may_be_claimed_is_said_and_published_without_the_rest():
    budgets = np.linspace(0.1, 0.5, 60)
    asked = RecordBudgets(budgets=budgets, clip=0.7, noise_multiplier=8.0)
    claim = train(network(), data(), privacy=asked, **SETTINGS).privacy
    assert isinstance(claim, BudgetedPrivacy)
    assert claim.status == "conditional"
    assert claim.epsilon(delta=1e-5) == gdp_epsilon(0.5, 1e-5)
    assert claim.epsilon(delta=1e-5, within=0.3) == gdp_epsilon(0.3, 1e-5)
    assert any("what a record has spent is its epsilon" in text for text in claim.may_not_be_claimed)
    published = json.loads(json.dumps(claim.to_dict()))
    assert not {"spent", "barred_at", "active", "budget_of"} & set(published)
    assert published["budget"] == 0.5
    # Groups: budgets add up; another release adds in squares.
    assert claim.mu_of(7) == budgets[7]
    exact = budgets[[0, 3, 59]].sum()
    assert exact <= claim.mu_of([0, 3, 59]) <= exact * (1 + 1e-14)
    assert claim.mu_of([0, 3, 59], mu=0.4) == pytest.approx(np.hypot(exact, 0.4), rel=1e-14)
    assert claim.group_epsilon(size=3, delta=1e-5) == pytest.approx(gdp_epsilon(1.5, 1e-5), rel=1e-12)
    assert claim.joint_epsilon(mu=0.4, delta=1e-5, size=2) == pytest.approx(gdp_epsilon(np.hypot(1, 0.4), 1e-5))
    with pytest.raises(ValueError, match="records must not repeat a row"):
        claim.mu_of([1, 1])


def test_a_head_on_such_a_backbone():
    x, y = data()
    net = network()
    run = train(net, (x, y), privacy=BUDGETS, **SETTINGS)
    features = net[:2].eval()
    head = NewtonLogisticRegression(classes=range(3), alpha=1.0, noise_std=0.1)
    model = CertifiedHead(features, head, backbone=run).fit(x, y.numpy())
    result = model.unlearn([5, 9])
    left, c = result.model, result.certificate
    own = left.head_.certificate_.mu * np.sqrt(left.head_.certificate_.releases)
    assert c.mu == pytest.approx(np.hypot(2 * 0.5, own), rel=1e-9)
    assert c.one.mu == pytest.approx(np.hypot(0.5, own), rel=1e-9)
    assert c.one.epsilon == pytest.approx(run.privacy.joint_epsilon(mu=own, delta=c.delta), rel=1e-9)
    assert (c.accountant, c.status, c.backbone.training.budget) == ("filter", "conditional", 0.5)
    assert any("budget was fixed before training" in text for text in c.conditions)
    assert "0.5-GDP" in c.summary()
    assert "no record above its budget" in page_of([c])
    given = {"ids": left.ids_, "evidence": result.evidence, "backbone": features}
    report = verify(c, left.features_, y.numpy()[left.ids_], **given)
    assert (report.n_deleted, report.mu) == (2, c.mu)
    again = NetworkCertificate.from_json(c.to_json())
    assert again == c
    again.check_claim()

    lie = json.loads(c.to_json())
    lie["backbone"]["training"]["budget"] = 0.6  # a smaller claim than that of the budget said
    with pytest.raises(VerificationError, match="claim"):
        NetworkCertificate.from_json(json.dumps(lie)).check_claim()
    for change in ({"accountant": "gdp"}, {"budget": None}, {"budget": -1.0}, {"sampling_probability": 0.5}):
        lie = json.loads(c.to_json())
        lie["backbone"]["training"] |= change
        with pytest.raises(CertificateError):
            NetworkCertificate.from_json(json.dumps(lie))


def test_constants_of_a_filtered_training_are_checked():
    good = {"clip": 1.0, "noise_multiplier": 3.0, "sampling_probability": 1.0, "n_steps": 9, "accountant": "filter",
            "room": 0.0, "seeded": False, "budget": 0.5}  # fmt: skip
    made = PrivateTraining(**good)
    assert made.mu() == 0.5
    assert 1.5 <= made.mu(group_size=3) <= 1.5 * (1 + 1e-14)
    assert made.epsilon(delta=1e-5, mu=0.3) == gdp_epsilon(made.mu(mu=0.3), 1e-5)
    assert PrivateTraining(**made.to_dict()) == made
    for bad, message in (
        ({"budget": None}, "budget must be given with the accountant 'filter'"),
        ({"accountant": "gdp"}, "budget must be None with the accountant 'gdp'"),
        ({"sampling_probability": 0.5}, "accountant must be 'rdp' or 'pld' for Poisson"),
        ({"budget": float("nan")}, "budget"),
    ):
        with pytest.raises(ValueError, match=message):
            PrivateTraining(**{**good, **bad})
    assert "budget" not in PrivateTraining(**{**good, "accountant": "gdp", "budget": None}).to_dict()


def test_what_budgets_cannot_be_kept_for_is_refused_by_name():
    given = {"privacy": BUDGETS, **SETTINGS}
    for bad, message in (
        ({"batch_size": 12}, "batch_size must be 60, all records, with RecordBudgets, got 12"),
        ({"sampling": "shuffle"}, "sampling must be 'poisson' with privacy"),
        ({"noise_std": 0.1}, "noise_std must not be given with privacy"),
        ({"clip": 0.1}, "clip must not be given with privacy"),
        ({"privacy": RecordBudgets(budgets=np.ones(59), clip=1.0, noise_multiplier=1.0)}, r"have shape \(60,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            train(network(), data(), **{**given, **bad})
    good = {"budgets": 0.5, "clip": 1.0, "noise_multiplier": 1.0}
    for name, bad in (
        ("budgets", np.inf), ("budgets", np.nan), ("budgets", -0.1), ("budgets", np.ones((2, 2))), ("budgets", []),
        ("clip", 0.0), ("clip", np.nan), ("noise_multiplier", 0.0), ("noise_multiplier", np.inf),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            RecordBudgets(**{**good, name: bad})
    with pytest.raises(ValueError, match="losses changed between two passes"):
        train(Remembering(), data(), **given)
    run = train(network(), data(), **given)
    with pytest.raises(ValueError, match=r"this one charged every step, see privacy\.spent"):
        run.privacy_losses()


class Remembering(nn.Module):
    """Adds the mean of the last batch to the next."""

    def __init__(self):
        super().__init__()
        self.a, self.kept = nn.Linear(6, 3).double(), None

    def forward(self, x):
        out = self.a(x)
        kept, self.kept = self.kept, out.detach().mean(0)
        return out if kept is None else out + kept


def test_equal_budgets_are_one_budget_however_they_are_said(tmp_path):
    given = {**SETTINGS, "n_steps": 3, "n_checkpoints": 1, "folder": tmp_path / "run", "seed": 1}
    asked = {"clip": 0.7, "noise_multiplier": 8.0}
    train(network(), data(), privacy=RecordBudgets(budgets=0.5, **asked), **given)
    train(network(), data(), privacy=RecordBudgets(budgets=np.full(60, 0.5), **asked), **given, resume=True)
    with pytest.raises(ValueError, match=r"privacy: the run in .* was started with") as found:
        train(network(), data(), privacy=RecordBudgets(budgets=np.arange(60.0), **asked), **given, resume=True)
    assert len(str(found.value)) < 1000


def test_noise_that_the_parameters_cannot_hold_is_refused():
    privacy = RecordBudgets(budgets=0.5, clip=1.0, noise_multiplier=1e300)
    with pytest.raises(ValueError, match=r"noise of a step must be a number in torch\.float32"):
        train(network().float(), data(), privacy=privacy, **SETTINGS)
