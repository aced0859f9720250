import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from pyro_ebm.core.checks import ShapeError
from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.diagnostics.container import group
from pyro_ebm.energies import GaussianEnergy
from pyro_ebm.kernels import MALA, Langevin, UnderdampedLangevin
from pyro_ebm.sampling import MCMC
from pyro_ebm.sampling.summary import HAS_DATATREE
from tests.diagnostics.schools import schools

LANGEVIN_STATISTICS = {"lp", "acceptance_rate", "step_size", "diverging"}


def run(target, kernel=MALA, num_samples=12, num_chains=3, **options):
    mcmc = MCMC(kernel(target), num_samples, 10, None, num_chains, disable_progbar=True, **options)
    mcmc.run()
    return mcmc


def groups(data):
    return set(data.children if HAS_DATATREE else data.groups())


def dims(data, name):
    return {key: value.dims for key, value in group(data, name).data_vars.items()}


def dtypes(data, name):
    return {key: value.dtype for key, value in group(data, name).data_vars.items()}


def test_kind_of_container():
    data = to_arviz({"z": torch.zeros(2, 5)})
    assert isinstance(data, xr.DataTree if HAS_DATATREE else az.InferenceData)


def test_groups_names_and_axes_of_a_model():
    mcmc = run(schools)
    data = to_arviz(mcmc)
    assert groups(data) == {"posterior", "sample_stats", "observed_data", "log_likelihood"}
    assert dims(data, "posterior") == {
        "mu": ("chain", "draw"),
        "tau": ("chain", "draw"),
        "theta": ("chain", "draw", "school"),
        "is_good": ("chain", "draw", "school"),
        "spread": ("chain", "draw"),
    }
    assert dims(data, "observed_data") == {"y": ("school",)}
    assert dims(data, "log_likelihood") == {"y": ("chain", "draw", "school")}
    assert set(dims(data, "sample_stats")) == LANGEVIN_STATISTICS
    assert set(dims(data, "sample_stats").values()) == {("chain", "draw")}


def test_values_are_those_of_the_run():
    mcmc = run(schools)
    data = to_arviz(mcmc)
    samples = mcmc.get_samples(group_by_chain=True)
    for name, variable in group(data, "posterior").data_vars.items():
        assert np.array_equal(variable.values, samples[name].numpy())
    for name, variable in group(data, "sample_stats").data_vars.items():
        assert np.array_equal(variable.values, mcmc.chains.stats[name].numpy())
    posterior = group(data, "posterior")
    np.testing.assert_allclose(posterior.spread, posterior.tau**2)
    assert np.array_equal(group(data, "observed_data").y, [28.0, 8.0, -3.0, 7.0])


def test_types_are_kept():
    data = to_arviz(run(schools))
    # ArviZ's statistics subtract, which booleans cannot.
    assert dtypes(data, "posterior")["is_good"] == np.int64
    assert dtypes(data, "posterior")["theta"] == np.float64
    assert dtypes(data, "sample_stats")["diverging"] == np.bool_
    mixed = to_arviz({"n": torch.zeros(2, 5, dtype=torch.int64), "x": torch.zeros(2, 5).float()})
    assert dtypes(mixed, "posterior") == {"n": np.int64, "x": np.float32}


def test_coordinates_are_integer_ranges_or_given():
    mcmc = run(schools)
    posterior = group(to_arviz(mcmc), "posterior")
    sizes = {"chain": 3, "draw": 12, "school": 4}
    assert {name: c.values.tolist() for name, c in posterior.coords.items()} == {
        name: list(range(size)) for name, size in sizes.items()
    }
    names = ["Choate", "Deerfield", "Phillips Andover", "Hotchkiss"]
    named = group(to_arviz(mcmc, coords={"school": names}), "posterior")
    assert named.theta.sel(school="Hotchkiss").dims == ("chain", "draw")


def test_notes_say_who_made_it():
    mcmc = run(schools)
    for attrs in (to_arviz(mcmc).attrs, group(to_arviz(mcmc), "posterior").attrs):
        assert attrs["inference_library"] == attrs["creation_library"] == "pyro_ebm"
        assert "inference_library_version" in attrs
        assert attrs["kernel"].startswith("MALA(target=None, step_size=")
        assert attrs["target"].startswith("ModelPotential(schools")
        assert attrs["step_size"] == mcmc.kernel.step_size


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        (MALA, LANGEVIN_STATISTICS),
        (Langevin, LANGEVIN_STATISTICS),
        (UnderdampedLangevin, LANGEVIN_STATISTICS | {"energy"}),
    ],
)
def test_energy_belongs_to_momentum(kernel, names):
    data = to_arviz(run(GaussianEnergy(torch.zeros(2), torch.eye(2)), kernel))
    assert groups(data) == {"posterior", "sample_stats"}
    assert set(dims(data, "sample_stats")) == names
    assert dims(data, "posterior") == {"x": ("chain", "draw", "x_dim_0")}


def test_warmup_on_request():
    mcmc = run(schools, save_warmup=True)
    assert not any(name.startswith("warmup") for name in groups(to_arviz(mcmc)))
    data = to_arviz(mcmc, warmup=True)
    assert {"warmup_posterior", "warmup_sample_stats"} < groups(data)
    assert dims(data, "warmup_posterior") == dims(data, "posterior")
    assert set(dims(data, "warmup_sample_stats")) == LANGEVIN_STATISTICS
    assert group(data, "warmup_posterior").sizes["draw"] == 10
    assert (group(data, "warmup_posterior").tau > 0).all()
    with pytest.raises(ValueError, match="save_warmup=True"):
        to_arviz(run(schools), warmup=True)


def test_dict_of_arrays_and_tensors():
    arrays = {"a": np.zeros((2, 5)), "b": torch.ones(2, 5, 3)}
    data = to_arviz(arrays, dims={"b": ["k"]}, coords={"k": ["x", "y", "z"]})
    assert groups(data) == {"posterior"}
    assert dims(data, "posterior") == {"a": ("chain", "draw"), "b": ("chain", "draw", "k")}
    assert group(data, "posterior").k.values.tolist() == ["x", "y", "z"]


def test_factors_are_not_data():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.factor("f", -z * torch.ones(3))
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(3))

    data = to_arviz(run(model))
    assert groups(data) == {"posterior", "sample_stats", "observed_data"}
    assert set(dims(data, "observed_data")) == {"y"}
    assert "factors ['f']" in data.attrs["log_likelihood_left_out"]


def test_reparameterised_sites_are_not_data():
    model = poutine.reparam(schools, config={"theta": LocScaleReparam(0.0)})
    assert set(dims(to_arviz(run(model)), "observed_data")) == {"y"}


def test_names_that_arviz_reserves():
    def model():
        rate = pyro.sample("chain", dist.Gamma(2.0, 1.0))
        with pyro.plate("draw", 3):
            pyro.sample("y", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 2.0]))

    data = to_arviz(run(model))
    assert dims(data, "posterior") == {"chain_": ("chain", "draw")}
    assert dims(data, "log_likelihood") == {"y": ("chain", "draw", "draw_")}


def test_nothing_random_happens():
    mcmc = run(schools)
    state = torch.get_rng_state()
    to_arviz(mcmc)
    assert torch.equal(torch.get_rng_state(), state)


def test_netcdf_round_trip(tmp_path):
    data = to_arviz(run(schools, UnderdampedLangevin, save_warmup=True), warmup=True)
    data.to_netcdf(str(tmp_path / "chains.nc"), engine="h5netcdf")
    back = az.from_netcdf(str(tmp_path / "chains.nc"), engine="h5netcdf")
    assert groups(back) == groups(data)
    for name in groups(data):
        xr.testing.assert_equal(group(back, name).load(), group(data, name))
        assert dtypes(back, name) == dtypes(data, name)
    assert back.attrs["kernel"] == data.attrs["kernel"]
    assert group(back, "sample_stats").energy.attrs == group(data, "sample_stats").energy.attrs


def test_an_interrupted_run_is_exported_as_far_as_it_came():
    def stop(kernel, params, stage, i):
        if stage == "Sample" and i == 6:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="cut short"):
        mcmc = run(schools, hook_fn=stop)
    assert group(to_arviz(mcmc), "posterior").sizes["draw"] == 7


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ({}, "have the shapes {}"),
        ({"a": torch.zeros(3)}, r"\(chain, draw, \*event\)"),
        ({"a": torch.zeros(2, 5), "b": torch.zeros(2, 6)}, "same number of chains"),
        ({"a": torch.zeros(2, 0)}, "same number of chains"),
    ],
)
def test_draws_that_do_not_fit_are_refused(draws, message):
    with pytest.raises(ShapeError, match=message):
        to_arviz(draws)


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="1 event axes"):
        to_arviz({"a": torch.zeros(2, 5, 3)}, dims={"a": ["x", "y"]})
    with pytest.raises(ShapeError, match="do not fit together"):
        to_arviz({"a": torch.zeros(2, 5, 3)}, dims={"a": ["k"]}, coords={"k": ["only one"]})


def test_other_things_are_refused():
    with pytest.raises(TypeError, match=r"a pyro_ebm.MCMC, a pyro.infer.MCMC or a dict"):
        to_arviz(torch.zeros(4, 10))
    with pytest.raises(RuntimeError, match="no draws yet"):
        to_arviz(MCMC(MALA(schools), 10))


def test_what_is_no_array_of_numbers_is_refused_by_name():
    for value in ("x", [[1.0], [1.0, 2.0]], None):
        with pytest.raises(TypeError, match=r"amplitude is a .* array or tensor of numbers"):
            to_arviz({"amplitude": value})


def test_a_container_is_refused():
    with pytest.raises(TypeError, match="works on already"):
        to_arviz(to_arviz({"z": torch.zeros(2, 5)}))
