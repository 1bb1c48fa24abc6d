"""A model whose blocks live on two devices measures what it measures on one, and nothing meets across them by luck.

The second device is `second_device`, which a machine without a GPU has as well. `tests/test_cuda.py` measures the same
where there are GPUs.
"""

import functools

import pytest
import torch

from .. import spread, tiny
from ..second_device import second_device

CLOSE = 1e-5
ORDERS = pytest.mark.parametrize("order", ["cpu-then-second", "second-then-cpu"])


@functools.cache
def on_one(name):
    return tiny.build(name)


@functools.cache
def on_two(name, order):
    devices = (torch.device("cpu"), second_device())
    return spread.build(name, devices if order.startswith("cpu") else devices[::-1])


@ORDERS
@pytest.mark.parametrize("measure", spread.MEASURED.values(), ids=spread.MEASURED)
@pytest.mark.parametrize("name", tiny.params(list(tiny.ARCHITECTURES)))
def test_blocks_on_two_devices_give_the_numbers_of_one(name, measure, order, words):
    one, two = on_one(name), on_two(name, order)
    assert {parameter.device.type for parameter in two.parameters()} == {"cpu", "second"}
    assert spread.furthest(measure(two, words), measure(one, words)) < CLOSE
    assert spread.exact_forms(two) == spread.exact_forms(one)
