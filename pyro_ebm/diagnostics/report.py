"""The verdict on a run: checks with their thresholds, and what they mean."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import xarray as xr


@dataclass(frozen=True)
class MixingCheck:
    """One check of a report.

    Args:
        name: What was looked at.
        value: What was found.
        threshold: What it was compared with.
        passed: The verdict.
        explanation: What the verdict means and where the worst value was found.

    >>> MixingCheck("R-hat", 1.002, 1.01, True, "The chains agree.")
    MixingCheck(name='R-hat', ..., explanation='The chains agree.')
    """

    name: str
    value: float
    threshold: float
    passed: bool
    explanation: str


@dataclass(frozen=True, repr=False)
class MixingReport:
    """What :func:`pyro_ebm.diagnostics.mixing_report` found.

    Args:
        num_chains: Number of chains.
        num_draws: Number of draws of each chain.
        checks: One for each thing that was looked at.
        stuck_chains: Chains that hardly move.
        constant_parameters: Parameters that are the same in all draws of all chains; R-hat,
            ESS and MCSE are not defined for them.

    >>> check = MixingCheck("R-hat", 1.2, 1.01, False, "The chains disagree.")
    >>> report = MixingReport(4, 100, (check,))
    >>> report.passed, report["R-hat"].value
    (False, 1.2)
    """

    num_chains: int
    num_draws: int
    checks: tuple[MixingCheck, ...]
    stuck_chains: tuple[int, ...] = ()
    constant_parameters: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> MixingCheck:
        """The check of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"{name!r} was not checked, only {[check.name for check in self.checks]}")

    def to_dataframe(self) -> Any:
        """One row for each check, as a pandas DataFrame."""
        names, *columns = zip(*(astuple(check) for check in self.checks), strict=True)
        labels = ("value", "threshold", "passed", "explanation")
        data = {label: ("check", list(c)) for label, c in zip(labels, columns, strict=True)}
        return xr.Dataset(data, coords={"check": list(names)}).to_dataframe()

    def __repr__(self) -> str:
        failed = [check for check in self.checks if not check.passed]
        verdict = f"{len(failed)} of {len(self.checks)} checks failed" if failed else "passed"
        lines = [f"Mixing of {self.num_chains} chains of {self.num_draws} draws: {verdict}."]
        for check in self.checks:
            mark = "ok  " if check.passed else "FAIL"
            lines.append(
                f"{mark} {check.name:<16} {check.value:>10.4g}  (threshold {check.threshold:g})  "
                f"{check.explanation}"
            )
        if self.constant_parameters:
            names = ", ".join(self.constant_parameters)
            lines.append(f"     Constant in all draws, so left out of the statistics: {names}.")
        return "\n".join(lines)
