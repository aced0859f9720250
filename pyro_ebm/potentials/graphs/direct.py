"""Call operations by the functions of ``torch``, which cost half as much as the operations."""

from __future__ import annotations

import operator

import torch
from torch import fx

_FUNCTIONS = """
abs add addmm bmm cat clamp clone constant_pad_nd cos cumprod cumsum diagonal digamma div eq exp
expm1 flip gather ge gt index_add index_select le lgamma log log1p logsumexp lt masked_fill mm mul
ne neg permute pow prod reciprocal rsub select sgn sigmoid sin sqrt squeeze stack sub sum t tanh
transpose tril unsqueeze where xlogy
"""
"""Those that take the arguments of the operation of their name, of any of its overloads."""

_METHODS = "add_ exp_ expand fill_ log_ logical_and_ masked_fill_ mul_ sub_ view"


def call_directly(graph: fx.Graph) -> None:
    """Replace operations by functions that take the same arguments and call them.

    >>> graph = fx.Graph()
    >>> _ = graph.output(graph.call_function(torch.ops.aten.exp.default, (graph.placeholder("x"),)))
    >>> call_directly(graph)
    >>> [node.target.__name__ for node in graph.nodes if node.op == "call_function"]
    ['exp']
    """
    functions, methods = set(_FUNCTIONS.split()), set(_METHODS.split())
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
            continue
        name = node.target.overloadpacket.__name__
        if isinstance(node.args[0], (int, float)):
            continue  # a number in place of a tensor, which only the operation takes
        if name in functions:
            node.target = getattr(torch, name)
        elif name in methods:
            node.op, node.target = "call_method", name
        elif name == "slice" and len(node.args) == 4 and node.args[1] >= 0:
            tensor, dim, start, stop = node.args
            node.target = operator.getitem
            node.args = (tensor, (*(slice(None) for _ in range(dim)), slice(start, stop)))
