"""What a driver needs of a kernel."""

from __future__ import annotations

from pyro_ebm.core.checks import ModelError, StepSizeError

_MEMBERS = ("target", "step_size", "scale", "init", "noise", "step")


def check_kernel(kernel: object, warmup_steps: int) -> None:
    """Refuse what is no kernel, a kernel without a target, and one that nothing can tune.

    Raises:
        ModelError: If there is no kernel or no target.
        StepSizeError: If the step size is open and there is no warm-up.
    """
    if isinstance(kernel, type) or not all(hasattr(kernel, name) for name in _MEMBERS):
        raise ModelError(
            f"the kernel is {kernel!r}, but one of pyro_ebm.kernels with a target is wanted: "
            "MCMC(MALA(model), ...). Pyro's own kernels run in pyro.infer.MCMC."
        )
    name = type(kernel).__name__
    if getattr(kernel, "target", None) is None:
        raise ModelError(
            f"{kernel!r} is a recipe without a target, so there is nothing to sample: give it a "
            f"Pyro model, an energy or a potential, as in {name}(model)."
        )
    if getattr(kernel, "step_size", None) is None and warmup_steps == 0:
        raise StepSizeError(
            f"{kernel!r} has no step size and warmup_steps=0 leaves no room to tune one: give the "
            "kernel a step_size, or some warm-up."
        )
