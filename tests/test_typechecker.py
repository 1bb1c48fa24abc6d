"""The suite's type checker finds wrong types and shapes, and leaves errors of a function's own to it."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError, config, jaxtyped

from fv_lens import InputError

from .typechecker import checked

pytestmark = pytest.mark.skipif(config.jaxtyping_disable, reason="JAXTYPING_DISABLE is set")


@jaxtyped(typechecker=checked)
def doubled(x: Float[torch.Tensor, " d"], times: int = 2) -> Float[torch.Tensor, " d"]:
    if isinstance(times, str):
        raise InputError(f"times is {times!r}; give a whole number")
    return (x * times)[: None if times > 1 else 1]


def test_right_arguments_pass():
    assert doubled(torch.ones(3)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("arguments", [(torch.ones(3, 3),), (torch.ones(3).int(),), (torch.ones(3), 2.0)])
def test_a_wrong_type_or_shape_that_the_function_takes_is_found(arguments):
    with pytest.raises(TypeCheckError):
        doubled(*arguments)


def test_a_result_of_another_shape_than_its_argument_is_found():
    with pytest.raises(TypeCheckError):
        doubled(torch.ones(3), 1)


def test_what_the_function_refuses_itself_is_said_in_its_own_words():
    with pytest.raises(InputError, match="times is 'twice'"):
        doubled(torch.ones(3), "twice")


def test_the_package_is_wrapped():
    from fv_lens.ground.scores import Score

    with pytest.raises(TypeCheckError):
        Score("0.5", 0.0, 1.0, 3)
