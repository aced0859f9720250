"""The file of a run: always whole, plain, and refused by name where it does not fit."""

from __future__ import annotations

import random
import time

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_ebm.core.checks import ModelError
from pyro_ebm.core.files import write_tensors
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import HMC, MALA, MCLACHLAN, NUTS, ReplicaExchange
from pyro_ebm.sampling import MCMC, checkpoint
from pyro_ebm.sampling.fingerprint import of_arguments
from tests.sampling.forks import forked
from tests.sampling.runs import STANDARD, cut_short, driver, regression, regression_data

X, Y = regression_data()


def saved(path, kernel, *args, **settings):
    mcmc = driver(kernel, 4, 12, num_chains=3, **settings)
    mcmc.run(*args)
    mcmc.save(path)
    return mcmc


def loaded(path, kernel, *args):
    mcmc = MCMC.load(path, kernel, disable_progbar=True)
    mcmc.run(*args)
    return mcmc


def is_plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(entry) for key, entry in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


def test_the_file_holds_plain_values_only(tmp_path):
    path = tmp_path / "run.pt"
    saved(path, NUTS(regression), X, Y, save_warmup=True)
    content = torch.load(path, weights_only=True)
    assert is_plain(content)
    assert content["made_by"]["torch"] == torch.__version__
    assert content["run"]["storage"]["positions"].shape == (4, 3, 9)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_call_with_other_data_by_mistake_loses_nothing(tmp_path):
    path, kernel = tmp_path / "run.pt", MALA(regression)
    first = saved(path, kernel, X, Y)
    mcmc = MCMC.load(path, kernel, num_samples=6, disable_progbar=True)
    with pytest.raises(ModelError, match="another data"):
        mcmc.run(X, Y + 1)
    mcmc.run(X, Y)
    assert torch.equal(mcmc.chains.positions[:, :4], first.chains.positions)


def test_nothing_to_save_before_a_run(tmp_path):
    with pytest.raises(RuntimeError, match="nothing to save yet: call run"):
        driver(MALA(STANDARD)).save(tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (NUTS(STANDARD), r"another kernel: class is MALA there and NUTS here; .*max_tree_depth"),
        (MALA(STANDARD, step_size=0.5), r"step_size is None there and 0\.5 here"),
        (MALA(STANDARD, scale=torch.ones(1)), r"scale is None there and a torch\.float64 \(1,\)"),
        (MALA(STANDARD, target_accept_prob=0.8), r"target_accept_prob is 0\.574 there and 0\.8"),
    ],
    ids=["class", "step_size", "scale", "target"],
)
def test_refuses_another_kernel(tmp_path, kernel, message):
    path = tmp_path / "run.pt"
    saved(path, MALA(STANDARD))
    with pytest.raises(ModelError, match=message):
        MCMC.load(path, kernel)


def test_refuses_another_integrator(tmp_path):
    path = tmp_path / "run.pt"
    saved(path, HMC(STANDARD))
    with pytest.raises(ModelError, match=r"integrator\.drifts\[0\] is 1\.0 there and 0\.5 here"):
        MCMC.load(path, HMC(STANDARD, integrator=MCLACHLAN))


@pytest.mark.parametrize("kernel", [regression, NUTS, pyro.infer.NUTS(regression)])
def test_says_what_is_no_kernel(tmp_path, kernel):
    path = tmp_path / "run.pt"
    saved(path, MALA(STANDARD))
    with pytest.raises(ModelError, match="is wanted"):
        MCMC.load(path, kernel)


def test_a_second_run_does_not_replace_the_file_of_the_first(tmp_path):
    path = tmp_path / "run.pt"
    mcmc = driver(MALA(STANDARD), checkpoint=path)
    mcmc.run()
    content, draws = path.read_bytes(), mcmc.chains.positions
    with pytest.raises(FileExistsError, match=r"continue it with MCMC\.load"):
        mcmc.run()
    assert path.read_bytes() == content
    assert torch.equal(mcmc.chains.positions, draws)


def test_refuses_another_kernel_inside(tmp_path):
    path = tmp_path / "run.pt"
    saved(path, ReplicaExchange(MALA(STANDARD), num_replicas=2))
    with pytest.raises(ModelError, match=r"kernel\.class is MALA there and NUTS here"):
        MCMC.load(path, ReplicaExchange(NUTS(STANDARD), num_replicas=2))


def with_width(x, y, width):
    regression(x, y, width=width)


def renamed(x, y):
    scale = pyro.sample("width", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (regression, (X, Y + 1e-9), r"another data: argument 1 is a torch\.float64 \(6,\) with di"),
        (regression, (X[:5], Y[:5]), r"effect is \(6,\) torch\.float64 there and \(5,\)"),
        (with_width, (X, Y, 1.0), r"argument 2 is missing there and 1\.0 here"),
        (renamed, (X, Y), r"scale is \(\) torch\.float64 there and missing here.*width is missing"),
    ],
    ids=["value", "shape", "number", "site"],
)
def test_refuses_other_data_and_models(tmp_path, model, args, message):
    path = tmp_path / "run.pt"
    saved(path, MALA(regression), X, Y)
    with pytest.raises(ModelError, match=message):
        loaded(path, MALA(model), *args)
    assert loaded(path, MALA(regression), X, Y).chains is not None


def test_refuses_other_parameters_of_an_energy(tmp_path):
    path = tmp_path / "run.pt"
    one, other = (GaussianEnergy(torch.tensor([loc]), torch.eye(1)) for loc in (0.0, 1e-3))
    saved(path, MALA(one))
    with pytest.raises(ModelError, match=r"at the starts of the run .* the potential is"):
        loaded(path, MALA(other))


def test_refuses_fewer_draws(tmp_path):
    path = tmp_path / "run.pt"
    saved(path, MALA(STANDARD))
    with pytest.raises(ValueError, match=r"num_samples=3, but .* at least 4"):
        MCMC.load(path, MALA(STANDARD), num_samples=3)


def test_says_what_is_no_run(tmp_path):
    path, kernel = tmp_path / "run.pt", MALA(STANDARD)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*run\.pt"):
        MCMC.load(path, kernel)
    for content in (b"", b"something else"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a checkpoint of MCMC"):
            MCMC.load(path, kernel)
    for foreign in ({"weights": torch.zeros(2)}, torch.zeros(2), {"format": "other"}):
        torch.save(foreign, path)
        with pytest.raises(ModelError, match="is not a checkpoint of MCMC"):
            MCMC.load(path, kernel)
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ModelError, match="is not a checkpoint: it cannot be read"):
        MCMC.load(path, kernel)


def test_says_what_is_cut_off_or_damaged(tmp_path):
    path, kernel = tmp_path / "run.pt", MALA(STANDARD)
    saved(path, kernel)
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(20):
        path.write_bytes(whole[: generator.randrange(len(whole))])
        with pytest.raises(ModelError, match="not a checkpoint"):
            MCMC.load(path, kernel)
    path.write_bytes(whole)
    draws = torch.load(path, weights_only=True)["run"]["storage"]["positions"].numpy().tobytes()
    path.write_bytes(whole.replace(draws, b"\x01" + draws[1:]))
    with pytest.raises(ModelError, match="is damaged"):
        MCMC.load(path, kernel)


def test_another_version_is_a_warning_and_another_format_an_error(tmp_path):
    path, kernel = tmp_path / "run.pt", MALA(STANDARD)
    saved(path, kernel)
    content = torch.load(path, weights_only=True)
    content["made_by"]["torch"] = "1.0"
    write_tensors(path, content)
    with pytest.warns(UserWarning, match=r"torch is 1\.0 there and .* not be the same to the bit"):
        MCMC.load(path, kernel)
    write_tensors(path, content | {"version": 99})
    with pytest.raises(ModelError, match=r"has version 99 of the format, but .* reads version 1"):
        MCMC.load(path, kernel)


def test_saves_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    path, steps = tmp_path / "run.pt", []
    monkeypatch.setattr(
        checkpoint, "write_tensors", lambda path, content: steps.append(content["run"]["steps"])
    )
    settings = {"checkpoint": path, "step_size": None}
    kernel = MALA(STANDARD, step_size=0.5, scale=torch.ones(1))
    del settings["step_size"]
    driver(kernel, 4, 0, **settings).run()
    assert steps == [0, 4]
    steps.clear()
    monkeypatch.setattr(checkpoint, "_LARGEST_SHARE", 1e9)
    driver(kernel, 4, 0, checkpoint_every=1e-9, **settings).run()
    assert steps == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("stage", ["Warmup", "Sample"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_saves_when_it_is_stopped(tmp_path, stage, error):
    def stop(kernel, params, phase, i):
        if (phase, i) == (stage, 2):
            raise error

    path, kernel = tmp_path / "run.pt", MALA(STANDARD)
    cut_short(driver(kernel, 4, 12, hook_fn=stop, checkpoint=path))
    content = torch.load(path, weights_only=True)
    assert content["run"]["steps"] == 3
    assert (content["run"]["warm_up"] is None) == (stage == "Sample")
    # It goes on saving itself, into the same file.
    resumed = loaded(path, kernel)
    assert resumed.chains.positions.shape[1] == 4
    assert torch.load(path, weights_only=True)["run"]["steps"] == 4


def test_refuses_paths_before_sampling(tmp_path):
    path, kernel = tmp_path / "run.pt", MALA(STANDARD)
    with pytest.raises(IsADirectoryError, match="give a file name"):
        driver(kernel, checkpoint=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder .*missing does not exist"):
        driver(kernel, checkpoint=tmp_path / "missing" / "run.pt")
    with pytest.raises(ValueError, match=r"checkpoint_every=0, but"):
        driver(kernel, checkpoint=path, checkpoint_every=0)
    saved(path, kernel)
    with pytest.raises(
        FileExistsError, match=r"continue it with MCMC\.load\('.*run\.pt', kernel\)"
    ):
        driver(kernel, checkpoint=path)


def test_fingerprints_tell_arguments_apart():
    module = nn.Linear(2, 1)
    same = [
        (torch.zeros(2), np.zeros(3), 1, 1.5, "a", None, True),
        ([torch.zeros(1)], {"x": 1, "y": [2, 3]}, (), module),
        (list(range(1000)),),
    ]
    for args in same:
        assert of_arguments(args, {"k": args[0]}) == of_arguments(args, {"k": args[0]})
    different = [
        (torch.zeros(2),), (torch.zeros(2).float(),), (torch.zeros(2, 1),), (torch.ones(2),),
        (np.zeros(2),), (0,), (0.0,), ("0",), (False,), (None,), ([0, 0],), ([],), ({},),
        (list(range(1000)),), (list(range(1, 1001)),), (module,), (nn.Linear(2, 1),),
        (torch.zeros(2, dtype=torch.bool),), (torch.zeros(2, dtype=torch.bfloat16),), (),
    ]  # fmt: skip
    prints = [str(of_arguments(args, {})) for args in different]
    assert len(set(prints)) == len(prints)


def sample_and_save(path, result):
    """Begin the run or go on with it, saving after each step; for a process of its own."""
    checkpoint._LARGEST_SHARE = 1e9
    kernel = NUTS(GaussianEnergy(torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 0.1]))))
    if path.exists():
        mcmc = MCMC.load(path, kernel, disable_progbar=True)
    else:
        generator = torch.Generator().manual_seed(0)
        settings = {"checkpoint": path, "checkpoint_every": 1e-9, "generator": generator}
        mcmc = driver(kernel, 20, 20, num_chains=4, **settings)
    mcmc.run()
    torch.save(mcmc.chains.positions, result)


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path):
    path, result, whole = (tmp_path / name for name in ("run.pt", "result.pt", "whole.pt"))
    before = time.perf_counter()
    process = forked(sample_and_save, tmp_path / "whole_run.pt", whole)
    process.join()
    seconds = time.perf_counter() - before
    generator, steps = random.Random(1), []
    for _ in range(8):
        process = forked(sample_and_save, path, result)
        time.sleep(generator.uniform(0.05, 0.15) * seconds)
        process.kill()
        process.join()
        if path.exists():
            content = torch.load(path, weights_only=True)["run"]
            steps.append((content["warm_up"] is None, content["steps"]))
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    process = forked(sample_and_save, path, result)
    process.join()
    assert process.exitcode == 0
    assert torch.equal(torch.load(whole), torch.load(result))
