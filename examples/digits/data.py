"""Scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels in [0, 1]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


class Digits(NamedTuple):
    """Images ``(batch, 64)``."""

    train: Tensor
    test: Tensor
    shown: Tensor
    """Four held-out digits whose posterior is sampled: a 0, a 3, a 5 and an 8."""


def load() -> Digits:
    """Split the digits in halves, stratified by class, always in the same way.

    Comparing laws needs many held-out digits: the standard error of an MMD falls with their
    number, while 898 digits are enough to train on.
    """
    images, classes = load_digits(return_X_y=True)
    parts = train_test_split(
        images / 16.0, classes, test_size=0.5, random_state=0, stratify=classes
    )
    train, test = (torch.tensor(part, dtype=torch.get_default_dtype()) for part in parts[:2])
    first = [int((parts[3] == digit).argmax()) for digit in (0, 3, 5, 8)]
    return Digits(train, test, test[first])
