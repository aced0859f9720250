"""Compute once what a recorded graph does not compute from its input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from pyro_ebm.potentials.graphs.division import divide
from pyro_ebm.potentials.graphs.recording import Recording


class FoldedFunction:
    """A recorded function in two parts: what its input changes, and all the rest.

    The rest is computed when one of the tensors it is computed from has changed in place, which
    PyTorch counts. It does not count changes through ``.data``, which some optimisers make, or
    of NumPy's memory. So only tensors in ``watched`` belong to the rest, and no parameters;
    but for views of them, which show every change.

    Args:
        recording: The function.
        watched: What is held by others, who change the tensors in it in ways that are counted.

    >>> from pyro_ebm.potentials.graphs.recording import OperationRecorder
    >>> weight, x = torch.tensor(2.0), torch.ones(2)
    >>> with OperationRecorder(x) as recorder:
    ...     y = weight.exp() * x
    >>> function = FoldedFunction(recorder.recording((y,)), watched=(weight,))
    >>> [node.name for node in function.changing.graph.nodes]
    ['q', 'exp_default', 'mul_tensor', 'output']
    >>> _ = weight.zero_()
    >>> function(torch.ones(2))
    (tensor([1., 1.]),)
    """

    def __init__(self, recording: Recording, watched: Iterable[Any] = ()) -> None:
        self.changing, self.rest = divide(recording, watched)
        names = [str(node.target) for node in self.rest.graph.nodes if _is_computed_with(node)]
        leaves = [recording.constants[name] for name in names if name not in recording.literals]
        self._leaves = leaves
        self._counted = [leaf for leaf in leaves if not leaf.is_inference()]
        self._stamp: list[int] | None = None
        self._rest: tuple[Tensor, ...] = ()

    def __call__(self, q: Tensor) -> Any:
        stamp = [leaf._version for leaf in self._counted]
        stamp += [leaf.data_ptr() for leaf in self._leaves]
        with torch.no_grad():
            if stamp != self._stamp:
                with torch.inference_mode(mode=False):
                    self._rest = self.rest()
                self._stamp = stamp
            return self.changing.forward(q.contiguous(), *self._rest)


def _is_computed_with(node: fx.Node) -> bool:
    return node.op == "get_attr" and any(user.op != "output" for user in node.users)
