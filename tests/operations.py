"""What torch runs, operation by operation."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OperationLog(TorchDispatchMode):
    """Names of the operations that ran, and of how many numbers the tensors were that they made."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        self.names.append(name)
        if isinstance(result, torch.Tensor):
            self.sizes.setdefault(name, set()).add(result.numel())
        return result
