"""Training with differential privacy: the step it takes, the claim it makes, and an attacker who tries it."""

import json
import secrets

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

from torch import nn  # noqa: E402

from expunge.accounting import dp_sgd_epsilon, dp_sgd_noise_multiplier, gdp_epsilon  # noqa: E402
from expunge.evaluation import audited_epsilon  # noqa: E402
from expunge.torch import Privacy, TrainingRun, UnsupportedLayerError, train  # noqa: E402
from expunge.torch.training.step import Step, cross_entropy  # noqa: E402
from small_training import data, network, weights_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PRIVACY = Privacy(epsilon=1.5, delta=1e-5, clip=0.7)
SETTINGS = {"step_size": 0.4, "n_steps": 12, "n_checkpoints": 3, "progress": False}


@pytest.mark.parametrize("batch_size", [60, 12])
def test_it_is_clipped_training_with_the_noise_of_its_claim(batch_size):
    run = train(model := network(), data(), privacy=PRIVACY, batch_size=batch_size, seed=3, **SETTINGS)
    rate = batch_size / 60
    multiplier = dp_sgd_noise_multiplier(epsilon=1.5, delta=1e-5, sampling_probability=rate, n_steps=12)
    noise = multiplier * 0.7 * 0.4 / batch_size
    assert run.settings["noise_std"] >= noise
    assert run.settings["noise_std"] == pytest.approx(noise, rel=2e-9)  # float64: little room
    train(same := network(), data(), clip=0.7, noise_std=run.settings["noise_std"], batch_size=batch_size, seed=3,
          **SETTINGS)  # fmt: skip
    assert torch.equal(weights_of(model), weights_of(same))

    claim = run.privacy
    assert (claim.epsilon, claim.delta, claim.clip, claim.sampling_probability) == (1.5, 1e-5, 0.7, rate)
    assert claim.status == "conditional"
    assert "the seed that was given stays secret" in claim.conditions[0]
    assert claim.accountant == ("gdp" if rate == 1 else "rdp")
    assert json.loads(json.dumps(claim.to_dict()))["conditions"] == list(claim.conditions)
    assert run.privacy_losses(order=2.0).shape == (60,)


def test_no_record_moves_a_step_further_than_the_bound():
    x, y = data()
    x[0] *= 1e3
    for row in (0, 7):
        kept = np.delete(np.arange(60), row)
        moved = []
        for rows in (np.arange(60), kept):
            model = network()
            step = Step(model, loss=cross_entropy, step_size=0.4, batch_size=60, noise_std=0.05, alpha=0.1, clip=0.7,
                        seed=1)  # fmt: skip
            step(0, rows, x[rows], y[rows], norms=False)
            moved.append(weights_of(model))
        assert 0 < float((moved[0] - moved[1]).norm()) <= 0.4 * 0.7 / 60 * (1 + 1e-9)


def test_an_attacker_who_sees_the_weights_learns_no_more_than_the_claim():
    """300 runs a side, of a record whose gradient is always as long as it may be."""
    privacy = Privacy(epsilon=1.0, delta=1e-2, clip=1.0)
    x, y = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    x[0] = 1e6
    found = {}
    for side, rows in (("with", [0, 1, 2]), ("without", [1, 2])):
        statistics = []
        for seed in range(300):
            model = nn.Linear(1, 2, bias=False).double()
            nn.init.zeros_(model.weight)
            step = None if side == "with" else 3  # the same constants: step size over batch size
            run = train(model, (x[rows], y[rows]), privacy=privacy, batch_size=len(rows), n_steps=2,
                        step_size=1.0 if step is None else 2 / 3, n_checkpoints=1, collect="none", progress=False,
                        seed=seed + (1000 if side == "with" else 0))  # fmt: skip
            statistics.append(float((model.weight[0] - model.weight[1]).detach()))
        found[side] = np.array(statistics)
        assert run.privacy.mu == pytest.approx(
            np.sqrt(2) / dp_sgd_noise_multiplier(epsilon=1.0, delta=1e-2, sampling_probability=1.0, n_steps=2)
        )
    for a, b in (("with", "without"), ("without", "with")):
        assert audited_epsilon(found[a], found[b], delta=1e-2, confidence=0.99).epsilon <= 1.0
    # The attack works: without noise the sides are told apart every time.
    assert abs(found["with"].mean() - found["without"].mean()) > 0.3 * found["with"].std()


def test_seeds_of_the_operating_system_are_kept_by_nobody(tmp_path):
    run = train(one := network(), data(), privacy=PRIVACY, batch_size=60, folder=tmp_path / "run", **SETTINGS)
    train(two := network(), data(), privacy=PRIVACY, batch_size=60, **SETTINGS)
    assert not torch.equal(weights_of(one), weights_of(two))
    assert run.settings["seed"] is None
    assert "operating system" in run.privacy.conditions[0]
    assert TrainingRun.load(tmp_path / "run").privacy == run.privacy
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["columns", "final.pt", "run.json"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["seed"] is None


def test_a_run_that_was_stopped_goes_on_with_its_secret(tmp_path, monkeypatch):
    given = {"privacy": PRIVACY, "batch_size": 12, "save_seconds": 0.0, **SETTINGS}
    monkeypatch.setattr(secrets, "randbits", lambda bits: 77)
    train(whole := network(), data(), **given)

    calls = []

    def failing(output, target):
        calls.append(None)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return cross_entropy(output, target)

    failing.__module__, failing.__qualname__ = cross_entropy.__module__, cross_entropy.__qualname__
    with pytest.raises(KeyboardInterrupt):
        train(network(), data(), loss=failing, folder=tmp_path / "run", **given)
    monkeypatch.setattr(secrets, "randbits", lambda bits: 88)
    train(resumed := network(), data(), folder=tmp_path / "run", resume=True, **given)
    assert torch.equal(weights_of(resumed), weights_of(whole))


def test_heads_and_groups():
    run = train(network(), data(), privacy=PRIVACY, batch_size=60, **SETTINGS)
    claim = run.privacy
    assert claim.joint_epsilon(mu=0.5) == pytest.approx(gdp_epsilon(np.hypot(claim.mu, 0.5), 1e-5), rel=1e-12)
    assert claim.group_epsilon(size=1) == pytest.approx(1.5, rel=1e-6)
    assert claim.group_epsilon(size=3) == pytest.approx(gdp_epsilon(3 * claim.mu, 1e-5), rel=1e-12)
    claim = train(network(), data(), privacy=PRIVACY, batch_size=12, **SETTINGS).privacy
    assert claim.mu is None
    assert claim.joint_epsilon(mu=0.5) == dp_sgd_epsilon(
        noise_multiplier=claim.noise_multiplier, delta=1e-5, sampling_probability=0.2, n_steps=12, mu=0.5
    )
    assert claim.epsilon < claim.group_epsilon(size=2) < claim.joint_epsilon(mu=0.5, size=2)
    assert train(network(), data(), batch_size=12, **SETTINGS).privacy is None


class Counting(nn.Module):
    """Keeps a mean of what it saw, as codebooks do."""

    def __init__(self):
        super().__init__()
        self.layer = network()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(6, dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        with torch.no_grad():
            self.seen.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.layer(x)


def test_what_the_claim_would_not_cover_is_refused():
    given = {"privacy": PRIVACY, "batch_size": 60, **SETTINGS}
    for bad, error, message in (
        ({"noise_std": 0.1}, ValueError, "noise_std must not be given with privacy"),
        ({"clip": 0.1}, ValueError, "clip must not be given with privacy"),
        ({"temperature": 0.1}, ValueError, "temperature must not be given with privacy"),
        ({"sampling": "shuffle", "batch_size": 12}, ValueError, "sampling must be 'poisson' with privacy"),
        ({"privacy": 1.0}, TypeError, "privacy must be expunge.torch.Privacy or RecordBudgets, got float"),
    ):
        with pytest.raises(error, match=message):
            train(network(), data(), **{**given, **bad})
    mixing = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).double()
    with pytest.raises(UnsupportedLayerError):
        train(mixing, data(), **given)
    with pytest.raises(ValueError, match="its buffer seen was changed by a training step"):
        train(counting := Counting(), data(), **given)
    assert counting.calls == 2  # the two passes of the first step
    with pytest.raises(TypeError, match="privacy needs parameters of float32 or float64"):
        train(network().to(torch.bfloat16), data(), **given)
    for bad in ({"epsilon": 0.0}, {"delta": 0.0}, {"delta": 1.0}, {"clip": np.nan}, {"accountant": "gdp"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Privacy(**{"epsilon": 1.0, "delta": 1e-5, "clip": 1.0, **bad})


class Odd(nn.Module):
    """A linear model whose forward pass is changed by ``act(module, x, output)``."""

    def __init__(self, act):
        super().__init__()
        self.a = nn.Linear(6, 3).double()
        self.still = nn.Parameter(torch.zeros(3, dtype=torch.float64), requires_grad=False)
        self.kept, self.act = None, act

    def forward(self, x):
        return self.act(self, x, self.a(x))


def _hooked(model, x, out):
    if out.requires_grad:
        out.register_hook(lambda grad: 100 * grad.sign())
    return out + 0


def _node_hooked(model, x, out):
    if out.grad_fn is not None:
        out.grad_fn.register_prehook(lambda grads: (100 * grads[0].sign(),))
    return out + 0


def _remembering(model, x, out):
    kept, model.kept = model.kept, out.detach().mean(0)
    return out if kept is None else out + kept


def _counting_in_frozen(model, x, out):
    model.still.data.add_(x.detach().mean())
    return out


def _writing_weights(model, x, out):
    model.a.bias.data.mul_(0.5)
    return out


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (_hooked, "a tensor has a hook, which may undo the clipping"),
        (_node_hooked, "gradient does not shrink as its loss does"),
        (lambda model, x, out: out * np.random.default_rng().random(), "losses changed between two passes"),
        (_remembering, "losses changed between two passes"),
        (_counting_in_frozen, "its frozen parameter still was changed"),
        (_writing_weights, "losses changed between two passes"),
        (lambda model, x, out: out / (1 + float(out.detach().norm())), "in its batch and .* alone"),
    ],
)
def test_models_that_undo_clipping_are_refused(act, message):
    with pytest.raises((ValueError, UnsupportedLayerError), match=message):
        train(Odd(act), data(), privacy=PRIVACY, batch_size=60, **SETTINGS)


def test_gradients_that_are_not_finite_are_named_as_what_they_are():
    def root_of_zero(model, x, out):  # the root's slope at 0 is infinite, and a half-masked one is nan
        return out + (0 * x[:, :1]).abs().sqrt() * model.a.weight[0, 0] + (0 * out[:, :1]).square().sqrt()

    with pytest.raises(ValueError, match="the norm of a record's gradient is not finite though its loss is"):
        train(Odd(root_of_zero), data(), privacy=PRIVACY, batch_size=60, **SETTINGS)


def test_weights_that_a_forward_pass_takes_from_records_are_refused():
    def begun_by_data(model, x, out):  # the losses are the same in both passes
        model.a.bias.data.fill_(float(x.detach().abs().max()))
        return nn.functional.linear(x, model.a.weight, model.a.bias)

    def later(model, x, out):
        model.kept = 1 if model.kept is None else model.kept + 1
        if model.kept > 5:  # not in the first step
            with torch.no_grad():
                model.a.bias.fill_(float(x.detach().abs().max()))
        return nn.functional.linear(x, model.a.weight, model.a.bias)

    for act in (begun_by_data, later):
        with pytest.raises(ValueError, match=r"its parameter a\.bias was changed by a forward pass"):
            train(Odd(act), data(), privacy=PRIVACY, batch_size=60, **SETTINGS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, y: cross_entropy(out, y) / torch.bincount(y)[y], "bincount of shape"),
        (lambda out, y: cross_entropy(out, y.roll(1)), "roll of shape"),
        (lambda out, y: cross_entropy(out, y) * len(y), "in its batch and .* alone"),
    ],
)
@pytest.mark.parametrize("batch_size", [60, 20])
def test_losses_that_combine_records_or_their_targets_are_refused(loss, message, batch_size):
    with pytest.raises((ValueError, UnsupportedLayerError), match=message):
        train(network(), data(), loss=loss, privacy=PRIVACY, batch_size=batch_size, **SETTINGS)


def test_losses_that_keep_statistics_are_refused():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

        def forward(self, out, y):
            self.seen += out.detach().abs().sum()
            return cross_entropy(out, y)

    with pytest.raises(ValueError, match="loss: its buffer seen was changed by a training step"):
        train(network(), data(), loss=Keeping(), privacy=PRIVACY, batch_size=60, **SETTINGS)


def test_losses_of_single_records_are_not_refused():
    one_hot = nn.functional.one_hot
    for loss in (
        lambda out, y: (out - one_hot(y, 3)).square().mean(1),
        lambda out, y: -out.log_softmax(1).gather(1, y[:, None])[:, 0],
        lambda out, y: -out.log_softmax(1)[torch.arange(len(y)), y],
        lambda out, y: nn.functional.cross_entropy(out, y, label_smoothing=0.1, reduction="none"),
    ):
        for dropout in (0.0, 0.5):
            run = train(network(dropout=dropout), data(), loss=loss, privacy=PRIVACY, batch_size=20, **SETTINGS)
            assert run.privacy.epsilon == 1.5


def test_single_precision_leaves_more_room():
    x, y = data()
    run = train(network().float(), (x.float(), y), privacy=PRIVACY, batch_size=60, **SETTINGS)
    exact = run.privacy.noise_multiplier * 0.7 * 0.4 / 60
    assert run.settings["noise_std"] == pytest.approx(1.001 * exact, rel=1e-9)
