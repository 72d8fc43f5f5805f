"""Interrupted proofs go on from what they kept, to the same bits; what is damaged, foreign or forged is refused."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from expunge.cli import main
from expunge.data import ArrayRecords
from expunge.runs.ridge.law import Phase, smoothness
from killing import MOMENTS, Killed, killed_at

pytest.importorskip("flint")
from flint import arb, arb_mat, ctx

from expunge.proof import balls, state
from expunge.proof.ridge import prove_deltas
from expunge.proof.state import ProofState, Stages
from test_proof_statement import certificate

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(9, 3)), RNG.normal(size=(9, 2))
PHASES = (Phase(13, 0.0), Phase(6, 0.3), Phase(5, 0.4, (0,)), Phase(7, 0.2, (0, 2)))
RUN = {
    "alpha": 0.5,
    "step_size": 0.8 / smoothness(X, alpha=0.5),
    "phases": PHASES,
    "deleted": [0, 2],
    "epsilon": 1.0,
    "claim": 0.9,
}


def prove(folder=None, **changes):
    return prove_deltas(**{"design": X, "targets": Y, **RUN, "state": folder, **changes})


def bits_of(proof):
    return proof.delta_pq, proof.delta_qp, proof.defects, proof.bits, proof.outcome


@pytest.fixture
def computed(monkeypatch):
    """Return the stages that are computed, as they are."""
    names: list[str] = []
    real = Stages.__init__

    def watched(self, begin, kept=None):
        real(self, lambda name: (names.append(name), begin(name)), kept)

    monkeypatch.setattr(Stages, "__init__", watched)
    return names


class Stopped(BaseException):
    """As an interrupt from the keyboard."""


def stop_after(monkeypatch, count):
    real = ProofState.write
    written = []

    def write(self, name, matrix):
        if len(written) == count:
            raise Stopped
        written.append(name)
        real(self, name, matrix)

    monkeypatch.setattr(ProofState, "write", write)


def interrupted(monkeypatch, count, call):
    """Interrupt a call when it is about to keep another stage."""
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Stopped):
            call()


def half_done(folder, monkeypatch):
    """Return the files of a proof that stopped in its course."""
    interrupted(monkeypatch, 9, lambda: prove(folder))
    return sorted(folder.glob("*.balls"))


def test_a_proof_goes_on_from_wherever_it_stopped_to_the_same_bits(tmp_path, monkeypatch, computed):
    whole = bits_of(prove())
    stages = len(computed)
    assert whole[-1] == "proved"
    assert stages > 20
    for count in range(0, stages, 3):
        folder = tmp_path / f"state{count}"
        interrupted(monkeypatch, count, partial(prove, folder))
        files = [path for path in folder.iterdir() if path.suffix == ".balls"]
        assert len(files) == count
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        computed.clear()
        assert bits_of(prove(folder)) == whole
        assert len(computed) <= stages - count  # what was kept is not computed again
        assert not folder.exists()


def test_laws_that_are_known_take_no_powers(tmp_path, monkeypatch, computed):
    prove()
    stages = len(computed)
    interrupted(monkeypatch, stages - 2, lambda: prove(tmp_path / "state"))
    computed.clear()
    assert prove(tmp_path / "state").proved
    assert computed == ["phase 3 true mean", "phase 3 true covariance"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [1, 2, 4, 7, 12, 31, 58])
def test_killed_at_any_call_that_writes(tmp_path, number, moment):
    whole = bits_of(prove())
    folder = tmp_path / "state"
    with pytest.raises(Killed), killed_at(number, moment):
        prove(folder)
    assert bits_of(prove(folder)) == whole
    assert not folder.exists()  # nor what was cut off


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("left", [1, 2, 3, 5, 9, 40])
def test_killed_while_the_state_is_removed(tmp_path, left, moment):
    whole = bits_of(prove())
    with killed_at(10**9, "after") as made:
        prove(tmp_path / "counted")
    folder = tmp_path / "state"
    with pytest.raises(Killed), killed_at(len(made) + 1 - left, moment):
        prove(folder)
    assert bits_of(prove(folder)) == whole
    assert not folder.exists()


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from expunge.proof.state import ProofState
from test_proof_state import prove
real, written = ProofState.write, []
def write(self, name, matrix):
    real(self, name, matrix)
    written.append(name)
    if len(written) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
ProofState.write = write
prove({folder!r})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_that_is_killed_goes_on_in_another(tmp_path, computed):
    folder = tmp_path / "state"
    code = KILLED.format(path=[str(Path(__file__).parent), *sys.path], folder=str(folder))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr.decode()
    assert len(list(folder.glob("*.balls"))) == 9
    assert bits_of(prove(folder)) == bits_of(prove())
    assert not folder.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"design": X + np.eye(9, 3) * 2**-40},
        {"targets": Y[:, ::-1].copy()},
        {"alpha": 0.25},
        {"step_size": RUN["step_size"] * (1 - 2**-50)},
        {"phases": (Phase(13, 0.0), Phase(6, 0.3), Phase(5, 0.4, (2,)), Phase(7, 0.2, (0, 2)))},
        {"phases": (*PHASES[:3], Phase(8, 0.2, (0, 2)))},
    ],
    ids=["X", "Y", "alpha", "step_size", "removed", "n_steps"],
)
def test_the_state_of_another_proof_is_refused_and_left_alone(tmp_path, monkeypatch, changes):
    folder = tmp_path / "state"
    files = half_done(folder, monkeypatch)
    with pytest.raises(ValueError, match=r"is of another proof .* name an empty folder"):
        prove(folder, **changes)
    assert sorted(folder.glob("*.balls")) == files


def test_another_claim_about_the_same_laws_goes_on(tmp_path, monkeypatch, computed):
    folder = tmp_path / "state"
    half_done(folder, monkeypatch)
    computed.clear()
    found = prove(folder, epsilon=0.5)
    assert bits_of(found)[:2] == bits_of(prove(epsilon=0.5))[:2]


def test_stages_of_other_bits_are_not_taken(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    half_done(folder, monkeypatch)
    more = {"attempts": ((256, 2),)}
    assert bits_of(prove(folder, **more)) == bits_of(prove(**more))


def test_damaged_files_are_refused_by_name_and_recomputed_once_removed(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    half_done(folder, monkeypatch)
    path = folder / "192-products.balls"
    for position in (100, -200):
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        whole = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"state: .*{path.name}.*remove the file"):
            prove(folder)
        path.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is damaged"):
        prove(folder)
    path.unlink()
    assert bits_of(prove(folder)) == bits_of(prove())


def test_a_stage_under_another_name_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    files = half_done(folder, monkeypatch)
    assert "192-products.balls" in [path.name for path in files]
    (folder / "192-moments.balls").write_bytes((folder / "192-products.balls").read_bytes())
    with pytest.raises(ValueError, match=r"holds the stage '192-products.balls'"):
        prove(folder)
    other = tmp_path / "other"
    half_done(other, monkeypatch)
    with balls.precision(192), pytest.raises(ValueError, match="is of another proof"):
        ProofState(other, key="0" * 64)
    marker = other / "proof-state.json"
    marker.write_text(marker.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="this version can go on with"):
        prove(other)
    marker.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        prove(other)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
def test_what_others_could_write_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    path = half_done(folder, monkeypatch)[0]
    for place, mode in ((folder, 0o777), (folder, 0o770), (folder / "proof-state.json", 0o622), (path, 0o660)):
        before = stat.S_IMODE(place.stat().st_mode)
        place.chmod(mode)
        with pytest.raises(ValueError, match=f"others could forge a proof; got mode {mode:03o}"):
            prove(folder)
        place.chmod(before)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ValueError, match="must belong to you"):
        prove(folder)


def test_places_that_cannot_hold_a_state_are_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path):
        with pytest.raises(ValueError, match="name an empty folder"):
            prove(place)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prove(tmp_path / "none" / "state")
    assert os.listdir(tmp_path) == ["file"]


def test_balls_come_back_to_the_bit():
    rng = np.random.default_rng(0)
    entries = [arb(0), arb(-1), arb(3, (1, -30)), arb((5, -3000), (2**30 - 1, -4000)), arb((-7, 9000))]
    for _ in range(400):
        man = int.from_bytes(rng.bytes(24), "little", signed=True)
        radius = int(rng.integers(0, 2 ** rng.integers(1, 31)))
        entries.append(arb((man, int(rng.integers(-900, 900))), (radius, int(rng.integers(-900, 900)))))
    with balls.precision(192):
        third = arb_mat(20, 20, entries[:400]) * (arb(1) / 3)
    for matrix in (arb_mat(5, 81, entries), third, third * third, arb_mat(0, 3), arb_mat(3, 0)):
        found = state._matrix(state._arrays(matrix))
        assert (found.nrows(), found.ncols()) == (matrix.nrows(), matrix.ncols())
        for one, two in zip(found.entries(), matrix.entries(), strict=True):
            assert one.mid().man_exp() == two.mid().man_exp()
            assert one.rad().man_exp() == two.rad().man_exp()
    radii = {int(one.rad().man_exp()[0]).bit_length() for one in (third * third).entries()}
    assert 30 in radii


def test_what_is_not_finite_is_computed_again(tmp_path):
    kept = ProofState(tmp_path / "state", key="0" * 64)
    for bad in (arb("inf"), arb("nan"), arb(0, "inf"), arb((1, 2**70))):
        kept.write("one", arb_mat(1, 1, [bad]))
        assert kept.read("one") is None
    kept.write("one", arb_mat(1, 1, [arb(3)]))
    assert kept.read("one")[0, 0] == 3
    assert int(ctx.prec) == 53


def test_tables_are_told_by_their_rows(tmp_path, monkeypatch):
    table = ArrayRecords(X, Y)

    def parts():
        for start in range(0, 9, 4):
            yield X[start : start + 4], Y[start : start + 4]

    assert table.n_records == 9
    folder = tmp_path / "state"
    half_done(folder, monkeypatch)
    assert bits_of(prove(folder, parts=parts))[0] == bits_of(prove())[0]  # of the same data, however they come


def test_a_certificate_is_proved_with_a_state_and_says_where_there_is_none(tmp_path, monkeypatch):
    one, data = certificate(), (np.eye(3), np.ones(3))
    folder = tmp_path / "state"
    interrupted(monkeypatch, 3, lambda: one.verify(*data, proof=True, state=folder))
    assert len(list(folder.glob("*.balls"))) == 3
    assert one.verify(*data, proof=True, state=folder).proof.proved
    assert not folder.exists()
    with pytest.raises(ValueError, match="state must be omitted without proof=True"):
        one.verify(*data, state=folder)
    with pytest.raises(ValueError, match="state must be omitted for method 'shifted'"):
        certificate(method="shifted").verify(*data, proof=True, state=folder)
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore::expunge.estimators.NoiseWarning")
def test_the_command_line_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", X=RNG.normal(size=(30, 3)), y=np.arange(30) % 2)
    fixed = ["--step-size", "0.005", "--classes", "0,1", "--n-steps", "60", "--noise-std", "0.1", "--task", "classify"]

    def run(*arguments, code=0):
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code == code, found.output
        return found.output

    run("fit", "data.npz", *fixed, "-o", "m.npz", "--model", "langevin-ridge")
    run("unlearn", "m.npz", "3", "-o", "m1.npz", "-c", "c.json")
    check = ["verify", "c.json", "data.npz", "--prove", "--state", "state"]
    interrupted(monkeypatch, 4, lambda: CliRunner().invoke(main, check, catch_exceptions=False))
    assert len(list(Path("state").glob("*.balls"))) == 4
    assert "proved in ball arithmetic" in run(*check)
    assert not Path("state").exists()
    Path("state").mkdir()
    Path("state/mine").write_text("")
    assert "holds other files" in run(*check, code=2)
