"""Linear maps through oneDNN: the same products, and the same way back, as torch's own."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from fv_lens.datasets.prompts import PromptTemplate, with_demonstrations
from fv_lens.datasets.relation_files import load_relation
from fv_lens.engine.batches import batch
from fv_lens.models import onednn
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.models.onednn import only, through_onednn

from .. import tiny
from .made import save

needs_onednn = pytest.mark.skipif(onednn._product is None, reason="this build of torch has no oneDNN")
run = through_onednn(lambda function, *args: function(*args))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def products(monkeypatch):
    """How many products oneDNN was given."""
    counted = []

    def product(*args):
        counted.append(args[0].shape)
        return torch.ops.mkldnn._linear_pointwise(*args)

    monkeypatch.setattr(onednn, "_product", product)
    return counted


class Copies(TorchDispatchMode):
    """Records the shape of every tensor laid out afresh."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default):
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


@needs_onednn
@pytest.mark.parametrize("shape", [(8, 24), (300, 24), (3, 5, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_slopes_are_those_of_float64(products, shape, biased, transposed):
    weight = normal(24, 40, seed=1).t() if transposed else normal(40, 24, seed=1)
    x, bias = normal(*shape).requires_grad_(), normal(40, seed=2) if biased else None
    out = run(linear, x, weight, bias)
    slope = normal(*out.shape, seed=3)
    out.backward(slope)
    exact = x.detach().double().requires_grad_()
    expected = linear(exact, weight.double(), None if bias is None else bias.double())
    expected.backward(slope.double())
    assert len(products) == 2
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_rows_that_are_not_contiguous_are_read_as_they_stand(products):
    x, weight = normal(9, 2, 24).transpose(0, 1)[:, ::2], normal(40, 24, seed=1)
    torch.testing.assert_close(run(linear, x, weight), linear(x, weight))
    expanded = normal(1, 24).expand(16, 24)
    torch.testing.assert_close(run(linear, expanded, weight), linear(expanded, weight))
    assert len(products) == 2


@needs_onednn
def test_weights_that_stand_as_in_times_out_go_the_same_way(products):
    x, weight, bias = normal(20, 24), normal(24, 40, seed=1), normal(40, seed=2)
    torch.testing.assert_close(run(torch.addmm, bias, x, weight), torch.addmm(bias, x, weight))
    assert len(products) == 1


@needs_onednn
@pytest.mark.parametrize(
    "x, weight, bias",
    [
        (normal(7, 24), normal(40, 24), None),
        (normal(24), normal(40, 24), None),
        (normal(16, 24).double(), normal(40, 24).double(), None),
        (normal(16, 24).bfloat16(), normal(40, 24).bfloat16(), None),
        (normal(0, 24), normal(40, 24), None),
        (normal(16, 24), normal(40, 24).requires_grad_(), None),
        (normal(16, 24), normal(40, 24), normal(40).requires_grad_()),
        (normal(16, 24), normal(24), None),
    ],
    ids=["rows", "vector", "float64", "bfloat16", "none", "weights learn", "bias learns", "one output"],
)
def test_what_does_not_fit_is_left_to_torch(products, x, weight, bias):
    assert torch.equal(run(linear, x, weight, bias), linear(x, weight, bias)) and not products


@needs_onednn
def test_a_bad_shape_raises_torchs_own_error(products):
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        run(linear, normal(16, 23), normal(40, 24))
    assert not products


@needs_onednn
@pytest.mark.parametrize("n", [3, 20], ids=["few rows", "many rows"])
def test_a_weight_turned_before_each_product_is_not_copied(n):
    weight, x, bias = nn.Parameter(normal(24, 40), requires_grad=False), normal(n, 24).requires_grad_(), normal(40)
    with Copies() as copies:
        out = run(lambda: linear(x, weight.T.contiguous(), bias))
    slope = normal(n, 40, seed=3)
    out.backward(slope)
    assert not copies.shapes
    exact = x.detach().double().requires_grad_()
    expected = exact @ weight.double() + bias.double()
    expected.backward(slope.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize(
    "read",
    [
        lambda turned: turned.view(-1),
        lambda turned: torch.cat([turned, turned]),
        lambda turned: normal(20, 40) @ turned,
        lambda turned: turned.stride(),
        lambda turned: turned.is_contiguous(),
        lambda turned: (turned.shape, turned.device, turned.dtype),
        lambda turned: linear(normal(20, 24), turned.mul_(2)),
        lambda turned: (turned.mul_(2), linear(normal(20, 24), turned))[1],
        lambda turned: torch.ops.aten.sum(turned),
    ],
    ids=["view", "cat", "matmul", "stride", "layout", "asked", "changed", "changed, then read", "operator"],
)
def test_all_else_finds_a_turned_weight_copied(read):
    weight = nn.Parameter(normal(24, 40), requires_grad=False)
    found, expected = run(lambda: read(weight.T.contiguous())), read(weight.T.contiguous())
    assert type(found) is type(expected)
    assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
    assert torch.equal(weight, normal(24, 40)), "a change of the copy leaves the weight alone"


@needs_onednn
def test_a_turned_activation_is_copied_at_once():
    def changed_after(x):
        turned = x.T.contiguous()
        x.zero_()
        return linear(normal(20, 24, seed=1), turned)

    torch.testing.assert_close(run(changed_after, normal(24, 40)), normal(20, 24, seed=1) @ normal(24, 40))


@needs_onednn
def test_a_turned_weight_that_learns_gets_its_gradient():
    weight = nn.Parameter(normal(24, 40))
    run(lambda: linear(normal(20, 24), weight.T.contiguous())).sum().backward()
    torch.testing.assert_close(weight.grad, normal(20, 24).sum(0)[:, None].expand(-1, 40))


@needs_onednn
@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer left in TransformerLens 4.0")
def test_verbs_of_a_hooked_transformer_copy_no_mlp_or_unembedding_and_see_weights_that_change(tmp_path):
    model = load_model(save(tmp_path / "tiny-llama"), cls="hooked")
    lens, ids = lens_of(model), torch.arange(1, 21)[None] % model.cfg.d_vocab
    weights = {tuple(w.shape) for w in (model.W_in[0].T, model.W_out[0].T, model.W_U.T)}
    with torch.no_grad():
        with Copies() as copies:
            lens.prefix(ids, torch.ones_like(ids))
            before = lens.readout(normal(20, 1, lens.d_model))
        model.unembed.W_U.data *= 2
        after = lens.readout(normal(20, 1, lens.d_model))
    assert not weights & set(copies.shapes)
    torch.testing.assert_close(after, 2 * before)


def test_without_onednn_torchs_own_way_stays(monkeypatch):
    monkeypatch.setattr(onednn, "_product", None)
    x, weight = normal(16, 24), normal(40, 24)
    assert torch.equal(run(linear, x, weight), linear(x, weight))


@needs_onednn
def test_weights_that_require_gradients_are_read_where_none_are_taken(products):
    x, weight = normal(16, 24), normal(40, 24).requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(run(linear, x, weight), linear(x, weight), rtol=1e-5, atol=1e-5)
    assert products == [(16, 24)]
    assert run(linear, x, weight).requires_grad and len(products) == 1


@pytest.mark.slow(but=1)
@needs_onednn
@pytest.mark.parametrize("name", tiny.NAMES)
def test_the_verbs_of_the_lens_go_that_way_and_full_forwards_do_not(products, name):
    lens = lens_of(tiny.build(name))
    pairs = load_relation("antonym").with_pairs(load_relation("antonym").pairs[:8])
    prompts = batch(lens, with_demonstrations(pairs, pairs, 0), PromptTemplate())
    lens.logits(prompts.tokens, prompts.mask)
    assert not products, "the slow reference shares no product with what it is compared with"
    with torch.no_grad():
        lens.prefix(prompts.tokens, prompts.mask)
    assert products


# Tokens behind the shorter answers of a batch


@needs_onednn
@pytest.mark.parametrize("biased", [False, True])
def test_only_what_is_read_is_multiplied_and_nothing_else_has_a_slope(products, biased):
    x, weight, bias = normal(3, 4, 24).requires_grad_(), normal(40, 24, seed=1), normal(40, seed=2) if biased else None
    read = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    with only(read):
        out = run(linear, x, weight, bias)
    slope = normal(*out.shape, seed=3)
    out.backward(slope)
    assert products == [(9, 24), (9, 40)]
    torch.testing.assert_close(out[read], linear(x, weight, bias)[read], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad[read], (slope @ weight)[read], rtol=1e-5, atol=1e-5)
    assert not out[~read].any() and not x.grad[~read].any()


@needs_onednn
def test_of_the_last_tokens_too_only_what_is_read_is_multiplied(products):
    weight, read = normal(40, 24, seed=1), torch.tensor([[1, 1, 1], [0, 1, 0]]).bool().repeat(4, 1)
    x, last = normal(8, 3, 24), normal(8, 2, 24, seed=2)
    with only(read, last=2):
        whole, end = run(linear, x, weight), run(linear, last, weight)
    assert products == [(16, 24), (12, 24)]
    for out, given, seen in ((whole, x, read), (end, last, read[:, -2:])):
        torch.testing.assert_close(out[seen], linear(given, weight)[seen], rtol=1e-5, atol=1e-5)
        assert not out[~seen].any()


@needs_onednn
@pytest.mark.parametrize("biased", [False, True])
def test_equal_tokens_are_multiplied_once_and_what_made_them_has_the_whole_slope(products, biased):
    weight, bias = normal(40, 24, seed=1), normal(40, seed=2) if biased else None
    made, own = normal(2, 24).requires_grad_(), normal(3, 2, 24, seed=3).requires_grad_()
    x = torch.cat([made.expand(3, -1, -1), own], 1)  # two tokens that all rows share, and two of each row's own
    read, same = torch.ones(3, 4).bool(), torch.arange(12).reshape(3, 4)
    read[2, 3], same[:, :2] = False, torch.arange(2)
    with only(read, same=same):
        out = run(linear, x, weight, bias)
    slope = normal(*out.shape, seed=4)
    slopes = torch.autograd.grad(out, [made, own], slope)
    assert products == [(7, 24), (7, 40)]
    whole = linear(x, weight, bias)
    expected = torch.autograd.grad(whole, [made, own], slope * read[..., None])
    torch.testing.assert_close(out, whole * read[..., None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_the_first_of_equal_tokens_is_one_that_is_computed():
    same = torch.tensor([[0, 1], [0, 3]])
    for wrong in (torch.tensor([[0, 1], [0, 2]]), same):
        with pytest.raises(AssertionError), only(torch.tensor([[wrong is not same, True], [True, True]]), same=wrong):
            pass


@needs_onednn
def test_what_is_of_another_shape_or_behind_the_block_is_whole(products):
    weight, read = normal(40, 24, seed=1), torch.tensor([[1, 0], [1, 1]]).bool().repeat(8, 1)
    with only(read):
        run(linear, normal(9, 24), weight)
        with only(torch.ones(8, 2).bool()):
            run(linear, normal(8, 2, 24), weight)
    run(linear, normal(16, 2, 24), weight)
    assert products == [(9, 24), (8, 2, 24), (16, 2, 24)]
