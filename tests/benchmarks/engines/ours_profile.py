"""Where the time of one of our rows goes, for the notes on goals that were missed.

``python -m tests.benchmarks.engines.ours_profile nuts eight_schools --chains 64``
"""

from __future__ import annotations

import argparse

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.contract import Settings, timed
from tests.benchmarks.engines import ours
from tests.benchmarks.targets import all_targets


def main() -> None:
    """Print the operations that take the most time, and what is left to Python."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel", help="a function of tests/benchmarks/engines/ours.py")
    parser.add_argument("target")
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lines", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target = next(t for t in all_targets() if t.name == arguments.target)
    settings = Settings(arguments.chains, arguments.draws, arguments.threads)
    prepared = getattr(ours, arguments.kernel)(target, settings)
    prepared.run(0)
    with timed() as plain:
        run = prepared.run(1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        prepared.run(1)
    averages = found.key_averages()
    print(averages.table(sort_by="self_cpu_time_total", row_limit=arguments.lines))
    in_torch = sum(event.self_cpu_time_total for event in averages) / 1e6
    print(f"without the profiler {plain.seconds:.2f} s, {run.num_gradients} gradients kept;")
    print(f"with it {in_torch:.2f} s inside torch's operations")


if __name__ == "__main__":
    main()
