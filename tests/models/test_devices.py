"""A model whose blocks live on two devices measures what it measures on one, and nothing meets across them by luck.

The second device is `second_device`, which a machine without a GPU has as well. `tests/test_cuda.py` measures the same
where there are GPUs.
"""

import functools

import pytest
import torch
from torch.utils import backend_registration

from fv_lens.models.lens import lens_of

from .. import spread, tiny
from ..second_device import announce, second_device

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this PyTorch has no devices written in Python", allow_module_level=True)
announce()

CLOSE = 1e-5
ORDER, OTHER = "second-then-cpu", "cpu-then-second"
BOTH = ("llama", "gemma2")  # are placed in the other order, too


@functools.cache
def on_one(name, order=ORDER):
    """A model for each order, as what has been measured on it shows in what it knows of itself."""
    return tiny.build(name)


@functools.cache
def on_two(name, order):
    devices = (torch.device("cpu"), second_device())
    return spread.build(name, devices if order.startswith("cpu") else devices[::-1])


@pytest.mark.parametrize("measure", spread.MEASURED.values(), ids=spread.MEASURED)
@pytest.mark.parametrize(
    "name, order",
    [pytest.param(name, ORDER, marks=[pytest.mark.slow] * (name != "llama")) for name in tiny.ARCHITECTURES]
    + [pytest.param(name, OTHER, marks=pytest.mark.slow) for name in BOTH],
)
def test_blocks_on_two_devices_give_the_numbers_of_one(name, measure, order, words):
    one, two = on_one(name, order), on_two(name, order)
    assert {parameter.device.type for parameter in two.parameters()} == {"cpu", "second"}
    assert spread.furthest(measure(two, words), measure(one, words)) < CLOSE
    assert spread.exact_forms(two) == spread.exact_forms(one)


@pytest.mark.parametrize("name", ["effects", "tuned", pytest.param("trained_adapters", marks=pytest.mark.slow)])
def test_prompts_may_come_by_way_of_another_device(name, words):
    """Accelerate may take what a network is called with to any of its devices first."""
    measure, two = spread.MEASURED[name], spread.build("llama", (second_device(), torch.device("cpu")), main=1)
    assert spread.furthest(measure(two, words), measure(on_one("llama"), words)) < CLOSE


@pytest.mark.parametrize("order", [ORDER, OTHER])
def test_where_the_parts_of_a_model_run(order):
    lens = lens_of(on_two("llama", order))
    first, last = (torch.device("cpu"), second_device())[:: 1 if order.startswith("cpu") else -1]
    assert lens.device == first == lens.device_of(0) and lens.device_of(1) == lens.device_of(2) == last
    assert lens.devices == [first, last] and lens.gpus == []
    assert lens.weights_hash == lens_of(on_one("llama")).weights_hash


# The second device itself: what a GPU refuses is refused, else the tests above would show nothing.


def pair():
    here = torch.arange(6.0).reshape(2, 3)
    return here, here.to(second_device())


@pytest.mark.parametrize(
    "operation",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here.T,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: torch.where(here > 1, there, there),
        lambda here, there: there.gather(1, here.long()),
        lambda here, there: here[there[:, 0].long().clamp(max=1)],
        lambda here, there: there.index_add_(0, torch.tensor([0, 1]), there.clone()),
        lambda here, there: here.masked_fill_(there > 1, 0),
        lambda here, there: there.index_put_((torch.tensor([0]),), here[:1], accumulate=True),
        lambda here, there: torch.nn.functional.linear(here, there),
    ],
)
def test_tensors_of_two_devices_do_not_mix(operation):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        operation(*pair())


def test_tensors_change_devices_when_told_to():
    here, there = pair()
    assert there.device == second_device() != here.device
    assert there.cpu().device == here.device and torch.equal(there.cpu(), here)
    assert (there + 1).device == there[[1, 0]].device == torch.zeros(2, device=there.device).device == there.device
    assert torch.equal((there + torch.tensor(1.0)).cpu(), here + 1)  # a number without dimensions goes anywhere
    assert torch.equal(there[torch.tensor([1, 0])].cpu(), here.flip(0))  # as does an index
    there.copy_(here + 1)
    assert torch.equal(there.cpu(), here + 1)


def test_gradients_cross_between_devices():
    here = torch.arange(1.0, 4.0, requires_grad=True)
    (here.to(second_device()) ** 2).sum().backward()
    assert here.grad.device == here.device and torch.equal(here.grad, 2 * here.detach())
