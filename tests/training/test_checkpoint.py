"""Checkpoints: nothing is lost, and a resumed training is the uninterrupted one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

import pyro_ebm
from pyro_ebm import MALA, MLPEnergy, fit_energy
from pyro_ebm.core.checks import ModelError, NonFiniteError
from pyro_ebm.objectives import ContrastiveDivergence
from pyro_ebm.training import checkpoint as checkpoint_module

OBJECTIVE = ContrastiveDivergence(MALA(step_size=0.5), num_steps=2)
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


ROOT = Path(pyro_ebm.__file__).parent.parent


def _energy(**options):
    torch.manual_seed(0)
    return MLPEnergy(2, **({"hidden": (8,)} | options))


def _fit(energy, num_steps, objective=OBJECTIVE, **options):
    settings = {"generator": torch.Generator().manual_seed(1), "progress": False} | options
    return fit_energy(energy, objective, X, num_steps=num_steps, batch_size=16, **settings)


def _assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        if isinstance(first[name], dict):
            _assert_same(first[name], second[name])
        elif isinstance(first[name], torch.Tensor):
            assert torch.equal(first[name], second[name]), name
        else:
            assert first[name] == second[name]


def _read(path):
    return torch.load(path, weights_only=True)


OPTIMIZERS = {
    "default": lambda energy: None,
    "momentum": lambda energy: torch.optim.SGD(energy.parameters(), lr=0.01, momentum=0.9),
    "adamw": lambda energy: torch.optim.AdamW(energy.parameters(), lr=0.01, amsgrad=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("same_file", [True, False])
def test_resumed_equals_uninterrupted(tmp_path, make, same_file):
    whole, first, second = (tmp_path / name for name in ("whole.pt", "first.pt", "second.pt"))
    energy = _energy()
    expected = _fit(energy, 7, checkpoint=whole, optimizer=make(energy))
    half = _energy()
    _fit(half, 3, checkpoint=first, optimizer=make(half))
    resumed = _energy(activation=torch.nn.SiLU)
    second = first if same_file else second
    other_generator = torch.Generator().manual_seed(99)
    actual = _fit(
        resumed,
        7,
        checkpoint=second,
        resume=str(first),
        optimizer=make(resumed),
        generator=other_generator,
    )
    assert actual.identical(expected)
    _assert_same(energy.state_dict(), resumed.state_dict())
    _assert_same(_read(whole), _read(second))


def test_content_is_plain_and_complete(tmp_path):
    path = tmp_path / "run.pt"
    energy = _energy()
    history = _fit(energy, 3, checkpoint=path)
    content = _read(path)
    assert set(content) == {"energy", "optimizer", "optimizer_class", "generator", "history"}
    _assert_same(content["energy"], energy.state_dict())
    assert content["optimizer"]["state"][0]["step"] == 3
    for name, values in content["history"].items():
        assert values.tolist() == history[name].values.tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_resuming_at_the_end_changes_nothing(tmp_path):
    path = tmp_path / "run.pt"
    first = _fit(_energy(), 3, checkpoint=path)
    before = _read(path)
    energy = _energy()
    for num_steps in (2, 3):
        with pytest.warns(UserWarning, match=r"has made 3 already, so nothing is trained"):
            again = _fit(energy, num_steps, checkpoint=path, resume=path)
        assert again.identical(first)
    _assert_same(_read(path), before)
    _assert_same(energy.state_dict(), before["energy"])


def test_resuming_with_another_rate(tmp_path):
    """What the error about a bad gradient advises must work: moments are kept, the rate is new."""
    path = tmp_path / "run.pt"
    _fit(_energy(), 3, checkpoint=path)
    energy = _energy()
    optimizer = torch.optim.Adam(energy.parameters(), lr=0.0)
    _fit(energy, 5, resume=path, optimizer=optimizer)
    _assert_same(energy.state_dict(), _read(path)["energy"])
    assert optimizer.state_dict()["state"][0]["step"] == 5


class Stops:
    """Draws random numbers, and then raises at the given step."""

    def __init__(self, at, error):
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, energy, x, *, generator=None):
        self.calls += 1
        if self.calls == self.at:
            torch.rand(5, generator=generator)
            raise self.error
        return OBJECTIVE(energy, x, generator=generator)


def test_ctrl_c_keeps_what_was_learned(tmp_path):
    path, energy = tmp_path / "run.pt", _energy()
    with pytest.warns(UserWarning, match="interrupted after 3 of 7 steps"):
        history = _fit(energy, 7, Stops(4, KeyboardInterrupt()), checkpoint=path)
    assert history.sizes["step"] == 3
    _assert_same(_read(path)["energy"], energy.state_dict())
    expected, resumed = _energy(), _energy()
    assert _fit(resumed, 7, resume=path).identical(_fit(expected, 7))
    _assert_same(resumed.state_dict(), expected.state_dict())


@pytest.mark.parametrize("error", [RuntimeError("broken"), NonFiniteError("the loss is nan.")])
def test_errors_write_the_checkpoint_first(tmp_path, error):
    path = tmp_path / "run.pt"
    with pytest.raises(type(error), match=str(error)):
        _fit(_energy(), 7, Stops(4, error), checkpoint=path)
    expected = _fit(_energy(), 7)
    assert _fit(_energy(), 7, resume=path).identical(expected)


def test_ctrl_c_during_an_update_waits_for_its_end(tmp_path):
    class Interrupting(torch.optim.SGD):
        def step(self, closure=None):
            if len(self.state) == 0:
                self.state[self.param_groups[0]["params"][0]]["seen"] = torch.ones(())
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            return super().step(closure)

    path, energy = tmp_path / "run.pt", _energy()
    start = {name: value.clone() for name, value in energy.state_dict().items()}
    optimizer = Interrupting(energy.parameters(), lr=0.1)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.warns(UserWarning, match="interrupted after 1 of 7 steps"):
        history = _fit(energy, 7, optimizer=optimizer, checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert history.sizes["step"] == 1
    assert not torch.equal(start["network.0.weight"], energy.state_dict()["network.0.weight"])
    _assert_same(_read(path)["energy"], energy.state_dict())


def test_saves_now_and_then(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr("pyro_ebm.training.fit._SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("pyro_ebm.training.fit.save", lambda state, path: steps.append(state.step))
    _fit(_energy(), 3, checkpoint=tmp_path / "run.pt")
    assert steps == [0, 1, 2, 3, 3]


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    _fit(_energy(), 3, checkpoint=path)
    before = path.read_bytes()

    def dies(content, file):
        del content
        file.write(b"half a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", dies)
    with pytest.raises(OSError, match="No space left"):
        _fit(_energy(), 5, checkpoint=path, resume=path)
    assert path.read_bytes() == before


KILLED = """
import os, signal, sys, torch
from pyro_ebm import MALA, MLPEnergy, fit_energy
from pyro_ebm.objectives import ContrastiveDivergence
from pyro_ebm.training import checkpoint, fit

write = torch.save

def write_or_die(content, file):
    if len(content["history"]["loss"]) == 3:
        file.write(b"half a file")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(content, file)

checkpoint.torch.save, fit._SECONDS_BETWEEN_SAVES = write_or_die, 0.0
objective = ContrastiveDivergence(MALA(step_size=0.5))
fit_energy(MLPEnergy(2), objective, torch.randn(40, 2), checkpoint=sys.argv[1])
"""


def test_a_process_killed_while_writing_leaves_the_last_file(tmp_path):
    path = tmp_path / "run.pt"
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    energy = MLPEnergy(2).float()
    history = fit_energy(energy, OBJECTIVE, X.float(), num_steps=4, progress=False, resume=path)
    assert history.sizes["step"] == 4
    assert len(_read(path)["history"]["loss"]) == 2


def _untrained(energy):
    _assert_same(energy.state_dict(), _energy().state_dict())


def test_refuses_to_overwrite_another_training(tmp_path):
    path, other = tmp_path / "run.pt", tmp_path / "other.pt"
    _fit(_energy(), 3, checkpoint=path)
    _fit(_energy(), 2, checkpoint=other)
    before, energy = path.read_bytes(), _energy()
    for resume in (None, other):
        with pytest.raises(FileExistsError, match=r"would be overwritten: .*resume='.*run\.pt'"):
            _fit(energy, 5, checkpoint=path, resume=resume)
    assert path.read_bytes() == before
    _untrained(energy)


def test_refuses_paths_before_training(tmp_path):
    energy = _energy()
    with pytest.raises(IsADirectoryError, match="give a file name"):
        _fit(energy, 5, checkpoint=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder .*missing does not exist"):
        _fit(energy, 5, checkpoint=tmp_path / "missing" / "run.pt")
    _untrained(energy)


def test_refuses_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    energy = _energy()

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(PermissionError, match=r"run\.pt cannot be written.*denied.*Give a"):
            _fit(energy, 5, checkpoint=tmp_path / "run.pt")
    (tmp_path / "run.pt.partial").mkdir()
    with pytest.raises(OSError, match=r"run\.pt cannot be written.*run\.pt\.partial"):
        _fit(energy, 5, checkpoint=tmp_path / "run.pt")
    with pytest.raises(FileNotFoundError, match=r"/proc/x\.pt cannot be written"):
        _fit(energy, 5, checkpoint="/proc/x.pt")
    _untrained(energy)


def test_the_check_leaves_no_file_behind(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        _fit(_energy(), 5, checkpoint=tmp_path / "run.pt", resume=tmp_path / "missing.pt")
    assert not list(tmp_path.iterdir())


def test_refuses_to_resume_from_what_is_no_checkpoint(tmp_path):
    energy, path = _energy(), tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*run\.pt to resume"):
        _fit(energy, 5, resume=path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match="not a checkpoint"):
        _fit(energy, 5, resume=path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not a checkpoint"):
        _fit(energy, 5, resume=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "something else")
    with pytest.raises(ModelError, match="not a checkpoint"):
        _fit(energy, 5, resume=path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="not a checkpoint of fit_energy"):
        _fit(energy, 5, resume=path)
    _untrained(energy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _energy(hidden=(9,)), r"network\.0\.weight is \(8, 2\) .* there and \(9, 2\)"),
        (lambda: _energy(hidden=(8, 8)), r"network\.4\.weight is None there"),
    ],
    ids=["width", "depth"],
)
def test_refuses_a_checkpoint_of_another_energy(tmp_path, make, message):
    path, energy = tmp_path / "run.pt", make()
    _fit(_energy(), 3, checkpoint=path)
    before = {name: value.clone() for name, value in energy.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        _fit(energy, 5, resume=path)
    _assert_same(energy.state_dict(), before)


def test_refuses_a_checkpoint_of_another_type(tmp_path):
    path, energy = tmp_path / "run.pt", _energy().float()
    _fit(_energy(), 3, checkpoint=path)
    with pytest.raises(ModelError, match=r"float64 there and .*float32 here"):
        fit_energy(energy, OBJECTIVE, X.float(), num_steps=5, progress=False, resume=path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda energy: torch.optim.SGD(energy.parameters(), lr=0.1),
            "class is Adam there and SGD",
        ),
        (lambda energy: torch.optim.Adam([energy.network[0].weight]), r"\[4\] there and \[1\]"),
    ],
    ids=["class", "parameters"],
)
def test_refuses_a_checkpoint_of_another_optimizer(tmp_path, make, message):
    path, energy = tmp_path / "run.pt", _energy()
    _fit(_energy(), 3, checkpoint=path)
    with pytest.raises(ModelError, match=message):
        _fit(energy, 5, resume=path, optimizer=make(energy))
    _untrained(energy)
