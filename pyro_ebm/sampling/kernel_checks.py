"""What a driver needs of a kernel."""

from __future__ import annotations

from typing import Any

from pyro_ebm.core.checks import ModelError, StepSizeError
from pyro_ebm.core.types import Kernel

_MEMBERS = [name for name in vars(Kernel) if not name.startswith("_")]


def check_kernel(kernel: object) -> None:
    """Refuse what is no kernel, and a kernel without a target.

    Raises:
        ModelError: If there is no kernel or no target.
    """
    missing = [name for name in _MEMBERS if not hasattr(kernel, name)]
    if isinstance(kernel, type) or missing:
        lacks = f" It has no {', '.join(missing)}." if missing else ""
        raise ModelError(
            f"the kernel is {kernel!r}, but one of pyro_ebm.kernels with a target is wanted: "
            f"MCMC(MALA(model), ...). Pyro's own kernels run in pyro.infer.MCMC.{lacks}"
        )
    name = type(kernel).__name__
    if getattr(kernel, "target", None) is None:
        raise ModelError(
            f"{kernel!r} is a recipe without a target, so there is nothing to sample: give it a "
            f"Pyro model, an energy or a potential, as in {name}(model)."
        )


def check_tunable(kernel: Kernel[Any, Any], warmup_steps: int) -> None:
    """Refuse a kernel that nothing can tune.

    Raises:
        StepSizeError: If the step size is open and there is no warm-up.
    """
    if kernel.step_size is None and warmup_steps == 0:
        or_warm_up = ", or some warm-up" if kernel.shortest_warmup > 0 else ""
        raise StepSizeError(
            f"{kernel!r} has no step size and warmup_steps=0 leaves no room to tune one: give the "
            f"kernel a step_size{or_warm_up}."
        )
