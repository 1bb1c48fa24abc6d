"""Libraries: what may stand in one, how well its vectors explain a pair, and which of them a pair may use."""

import inspect

import pytest
import torch

from fv_lens.analogies.basis import Basis, allowed, explained, pairs_batch
from fv_lens.analogies.compose import Composer
from fv_lens.analogies.composition import WEIGHTINGS, Composition
from fv_lens.datasets.kinship import unite
from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.ground.errors import InputError
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector

from .. import oracles
from ..oracles import EXACT, Change, difference

# Words of one token and of several, on either side.
PAIRS = [
    ("w3", "w5 w6 w7"),
    ("w10 w11", "w12"),
    ("w20 w21 w22 w23 w24 w25 w28", "w26 w27"),
    ("w30", "w31"),
    ("w3", "w9"),
]
# Of the bundled relations, the first two are one family, the next two another, the last has none beside it.
NAMES = ("antonym", "un-adjective", "synonym", "intensity", "tool-action")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(values: torch.Tensor, layer: int = 1, **record) -> FunctionVector:
    return FunctionVector(values, layer, **dict(model="tiny/llama", bos=True) | record)


def vectors_of(model, names=NAMES, layer: int = 1) -> dict[str, FunctionVector]:
    lens = lens_of(model)
    record = dict(model=lens.name, processing=lens.processing, bos=lens.bos)
    return {name: vector(values, layer, **record) for name, values in zip(names, 3 * noise(len(names), lens.d_model))}


def by_hand(model, library: Basis, pairs, template=None) -> torch.Tensor:
    """`[pair, 1 + vector]`: log-probability of the whole B after A, without a vector and with each."""
    found = torch.zeros(len(pairs), 1 + len(library))
    for i, (a, b) in enumerate(pairs):
        prompt, (answer,) = oracles.in_words(model, (template or PromptTemplate()).prompt(a), (b,))
        whatifs = [[], *([Change(fv.layer, fv.vector)] for fv in library.vectors)]
        found[i] = torch.stack([oracles.continuation_log_probs(model, prompt, answer, w).sum() for w in whatifs])
    return found


# The same numbers as full forwards


@pytest.mark.slow
@pytest.mark.slow(but=1)
@pytest.mark.parametrize("n", [1, 5], ids=["a single vector", "more than are asked at once"])
@pytest.mark.parametrize("layer", [0, 2])
def test_pairs_are_explained_as_in_full_forwards(model, n, layer):
    lens = lens_of(model)
    library = Basis.of(lens, vectors_of(model, NAMES[:n], layer))
    expected = by_hand(model, library, PAIRS)
    assert difference(explained(lens, library, pairs_batch(lens, PAIRS, library.template)), expected) <= EXACT
    assert (expected[:, 1:] - expected[:, :1]).abs().amin(1).max() > 0.01, "vectors that do nothing would pass"


@pytest.mark.slow
def test_pairs_are_asked_in_the_template_that_the_vectors_were_made_with(llama):
    template = PromptTemplate("{word} A", " w99 {answer}", prefix="w98 ")
    vectors = {name: vector(fv.vector, template=template.to_dict()) for name, fv in vectors_of(llama).items()}
    library, pairs = Basis.of(lens_of(llama), vectors), PAIRS[:2]
    found = explained(lens_of(llama), library, pairs_batch(lens_of(llama), pairs, library.template))
    expected = by_hand(llama, library, [(a, f"w99 {b}") for a, b in pairs], template)
    assert library.template == template and difference(found, expected) <= EXACT
    vectors["antonym"] = vector(noise(32), template=PromptTemplate("A {word}").to_dict())
    assert Basis.of(lens_of(llama), vectors).template == PromptTemplate()


# The library


@pytest.mark.slow
def test_the_order_of_the_mapping_changes_nothing(llama):
    lens, vectors = lens_of(llama), vectors_of(llama)
    one, other = (
        Composer(lens, Basis.of(lens, dict(order)), PAIRS) for order in (vectors.items(), [*vectors.items()][::-1])
    )
    assert one.library.names == other.library.names == tuple(sorted(NAMES))
    assert torch.equal(one.library.matrix, torch.stack([vectors[name].vector for name in sorted(NAMES)]))
    assert torch.equal(one.log_probs, other.log_probs)
    for weighting in WEIGHTINGS:
        how = Composition(weighting, center=True, pair_steps=2)
        assert torch.equal(one.vectors(how), other.vectors(how)), weighting


def test_vectors_are_added_at_their_own_layer_and_site(llama):
    library = Basis.of(lens_of(llama), {"a": vector(noise(32), 2, site="hook_attn_out")})
    (edit,) = library.edit(library.matrix[0])
    assert (edit.layer, edit.hook, edit.head) == (2, "hook_attn_out", None)


# What each pair may use


def names_of(library: Basis, row: torch.Tensor) -> set[str]:
    return {name for name, may in zip(library.names, row) if may}


def test_nothing_is_left_out_unless_asked_for_or_known(llama):
    library = Basis.of(lens_of(llama), vectors_of(llama))
    assert allowed(library, ["antonym", None], None).all()
    for exclude in ("relation", "family"):
        assert allowed(library, [None, "no such relation"], exclude).all()


def test_the_pairs_own_relation_is_left_out_and_its_siblings_with_it(llama):
    library = Basis.of(lens_of(llama), vectors_of(llama))
    own, tool = allowed(library, ["antonym", "tool-action"], "relation")
    assert names_of(library, own) == set(NAMES) - {"antonym"} and names_of(library, tool) == set(NAMES) - {
        "tool-action"
    }
    for kin in ({"antonym", "un-adjective"}, {"synonym", "intensity"}, {"tool-action"}):
        for mine in allowed(library, sorted(kin), "family"):
            assert names_of(library, mine) == set(NAMES) - kin


def test_a_vector_is_of_the_relation_that_it_says_not_of_its_name(llama):
    vectors = vectors_of(llama, ("mine", "synonym"))
    vectors["mine"] = vector(noise(32), relation="antonym")
    library = Basis.of(lens_of(llama), vectors)
    assert names_of(library, allowed(library, ["antonym"], "relation")[0]) == {"synonym"}
    assert names_of(library, allowed(library, ["un-adjective"], "family")[0]) == {"synonym"}


def test_families_of_the_users_own_relations_are_told(llama):
    library = Basis.of(lens_of(llama), vectors_of(llama, ("a", "b", "c", "antonym")))
    families = {"a": "x", "b": "x", "new": "x", "c": "opposite"}
    for relation, kin in {"a": {"a", "b"}, "new": {"a", "b"}, "un-adjective": {"c", "antonym"}}.items():
        assert names_of(library, allowed(library, [relation], "family", families)[0]) == {*library.names} - kin
    assert names_of(library, allowed(library, ["a"], "relation", families)[0]) == {*library.names} - {"a"}
    moved = {"antonym": "x", "a": "x"}  # what is told of a bundled relation counts
    assert names_of(library, allowed(library, ["antonym"], "family", moved)[0]) == {"b", "c"}


def test_vectors_are_left_out_with_families_that_they_share_pairs_with(llama):
    vectors = vectors_of(llama, ("tool-action", "synonym", "mine"))
    vectors["mine"] = vector(noise(32), relation="mine", kin=["opposite", "other"])
    library = Basis.of(lens_of(llama), vectors)
    for relation, left_out in {"antonym": {"mine"}, "mine": {"mine"}, "tool-action": {"tool-action"}}.items():
        assert names_of(library, allowed(library, [relation], "family")[0]) == {*library.names} - left_out
    assert names_of(library, allowed(library, [None], "family", own=["other"])[0]) == {"tool-action", "synonym"}
    assert allowed(library, ["antonym"], "relation").all(), "kin are other relations"


def in_a_row(name: str, start: int, family: str | None = None) -> Relation:
    return Relation(name, [(f"a{i}", f"b{i}") for i in range(start, start + 20)], family=family)


@pytest.mark.parametrize(
    ("relation", "family", "without_relation", "without_family"),
    [
        ("plural", "forms", {"plural", "plural-B"}, {"plural", "plural-B", "plural-reg"}),
        ("twin", None, {"opposite"}, {"opposite", "near"}),
        ("1b", None, {"1b"}, {"1a", "1b"}),
        ("far", "far", {"far"}, {"far"}),
        (None, "factual", set(), set()),
    ],
)
def test_no_kin_from_other_sets_may_answer(llama, relation, family, without_relation, without_family):
    """Shared family labels, a twin that was left out, siblings of which one is asked, and names that were taken."""
    found = unite([
        ("bundled", [in_a_row("plural", 0, "forms"), in_a_row("opposite", 100), in_a_row("far", 900)]),
        ("B", [in_a_row("plural-reg", 300, "forms"), in_a_row("plural", 17, "forms")]),
        ("S", [in_a_row("1a", 400, "C"), in_a_row("1b", 500, "C"), in_a_row("twin", 105), in_a_row("near", 118)]),
    ])  # fmt: skip
    assert list(found.left_out) == ["twin"]
    library = Basis.of(lens_of(llama), {
        name: vector(noise(32), relation=name, aliases=found.aliases[name], kin=found.kin[name])
        for name in found.relations
    })  # fmt: skip
    for exclude, expected in (("relation", without_relation), ("family", without_family)):
        (mask,) = allowed(library, [relation], exclude, own=[family])
        assert {*library.names} - names_of(library, mask) == expected


def test_a_pair_may_be_known_by_its_family_alone(llama):
    library = Basis.of(lens_of(llama), vectors_of(llama))
    own = ["opposite", "synonym", None]
    relation, family = (
        allowed(library, [None, "antonym", "antonym"], which, own=own) for which in ("relation", "family")
    )
    assert [names_of(library, row) for row in relation] == [{*NAMES}, {*NAMES} - {"antonym"}, {*NAMES} - {"antonym"}]
    opposites, synonyms = {"antonym", "un-adjective"}, {"synonym", "intensity"}
    assert [{*NAMES} - names_of(library, row) for row in family] == [opposites, synonyms, opposites]


@pytest.mark.slow
@pytest.mark.parametrize("center", [False, True], ids=["as they are", "centred"])
@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "none"])
@pytest.mark.parametrize(
    "exclude, poisoned", [("relation", "antonym"), ("family", "antonym"), ("family", "un-adjective")]
)
def test_what_is_left_out_truly_is(llama, weighting, center, exclude, poisoned):
    """A vector of huge numbers changes nothing where it is left out, and everything where it is not."""
    lens, vectors, how = lens_of(llama), vectors_of(llama), Composition(weighting, center=center)

    def made(some, exclude):
        library = Basis.of(lens, some)
        may = allowed(library, ["antonym"] * len(PAIRS), exclude)
        return Composer(lens, library, PAIRS).vectors(how, may)

    left_out, with_poison = {poisoned}, vectors | {poisoned: vector(torch.full((32,), 1e6))}
    if exclude == "family":
        left_out = {"antonym", "un-adjective"}
    without = made({name: fv for name, fv in vectors.items() if name not in left_out}, None)
    kept = made(with_poison, exclude)
    assert torch.equal(kept, made(vectors, exclude))
    assert difference(kept, without) <= EXACT
    if (weighting in ("uniform", "gradient")) != center:  # no others would take it; centred, they have it in the mean
        assert difference(made(with_poison, None), made(vectors, None)) > 1e3


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("weighting", ["posterior", "gain", "single"])
def test_the_best_vector_is_used_only_where_it_may_be(llama, weighting):
    """Of the poison above no model would make a word probable; here the one left out is what explains the pair best."""
    lens, pair, vectors = lens_of(llama), ("w3", "w5"), vectors_of(llama)
    vectors["antonym"] = vector(1e3 * llama.unembed.W_U[:, 5].detach(), 2)
    vectors = {name: vector(fv.vector, 2) for name, fv in vectors.items()}
    library = Basis.of(lens, vectors)
    composer, place = Composer(lens, library, [pair]), library.names.index("antonym")
    full = composer.weights(Composition(weighting))[0]
    for exclude in ("relation", "family"):
        mine = composer.weights(Composition(weighting), allowed(library, ["antonym"], exclude))[0]
        assert mine[place] == 0 < 0.5 < full[place] and mine.sum() == pytest.approx(1)


# What is refused


def unchecked(function):
    """Without the type checks of the suite, which would come before the function's own."""
    return inspect.unwrap(function)


@pytest.mark.parametrize("none", [{}, [], None, "antonym", [vector(noise(32))]], ids=str)
def test_a_library_is_a_mapping_that_holds_something(llama, none):
    with pytest.raises(
        InputError, match="^The library has no vectors; give a mapping from relation to FunctionVector.$"
    ):
        unchecked(Basis.of.__func__)(Basis, lens_of(llama), none)


def test_a_library_holds_vectors_alone(llama):
    with pytest.raises(InputError, match="^The library holds Tensor for 'b'; give FunctionVectors.$"):
        unchecked(Basis.of.__func__)(Basis, lens_of(llama), {"b": noise(32), "a": vector(noise(32))})


@pytest.mark.parametrize(
    "what, value, of",
    [
        ("model", "gpt2", "'tiny/llama' .'a'. and 'gpt2' .'b'."),
        ("layer", 2, "1 .'a'. and 2 .'b'."),
        ("site", "hook_resid_mid", "'hook_resid_post' .'a'. and 'hook_resid_mid' .'b'."),
        ("processing", "centered", "'raw' .'a'. and 'centered' .'b'."),
        ("bos", False, "True .'a'. and False .'b'."),
    ],
)
def test_vectors_of_two_places_are_not_mixed(llama, what, value, of):
    vectors = {"a": vector(noise(32)), "b": vector(noise(32), **{what: value})}
    for order in (vectors, dict(reversed(vectors.items()))):
        with pytest.raises(InputError, match=f"^The library mixes vectors of {what} {of}; only vectors of one model"):
            Basis.of(lens_of(llama), order)


@pytest.mark.parametrize("sizes", [(16, 16), (32, 16), (16, 32)], ids=str)
def test_vectors_of_another_size_are_refused(llama, sizes):
    vectors = {name: vector(noise(size)) for name, size in zip("ab", sizes)}
    with pytest.raises(InputError, match="^The vector has 16 numbers; the residual stream of tiny/llama has 32.$"):
        Basis.of(lens_of(llama), vectors)


def test_vectors_that_are_not_of_this_model_are_refused_or_warned_of(llama):
    with pytest.raises(InputError, match=r"Layer 3 is outside 0\.\.2 of tiny/llama"):
        Basis.of(lens_of(llama), {"a": vector(noise(32), 3)})
    with pytest.raises(InputError, match="without a BOS token"):
        Basis.of(lens_of(llama), {"a": vector(noise(32), bos=False)})
    with pytest.raises(InputError, match="made on 'gpt2'"):
        Basis.of(lens_of(llama), {"a": vector(noise(32), model="gpt2")})
    with pytest.warns(UserWarning, match="made on 'other/llama'"):
        Basis.of(lens_of(llama), {"a": vector(noise(32), model="other/llama")})


@pytest.mark.parametrize("name", [3, None, ("a", "b")], ids=str)
def test_a_library_is_known_by_names(llama, name):
    vectors = {"a": vector(noise(32)), name: vector(noise(32))}
    with pytest.raises(InputError) as refused:
        unchecked(Basis.of.__func__)(Basis, lens_of(llama), vectors)
    assert str(refused.value) == f"The library has the name {name!r}; give relations' names, such as 'antonym'."


@pytest.mark.parametrize(
    "pair", [("w1", ""), (" ", "w1"), ("w1",), ("w1", "w2", "w3"), ("w1", 2), (None, "w1")], ids=str
)
def test_a_pair_is_two_words(llama, pair):
    with pytest.raises(InputError, match="^The source pair is .*; give two words, such as .'hot', 'cold'.[.]$"):
        unchecked(pairs_batch)(lens_of(llama), [("w1", "w2"), pair], PromptTemplate())


def test_another_exclusion_is_refused(llama):
    with pytest.raises(InputError, match="^exclude is 'relations'; give None, 'relation' or 'family'.$"):
        allowed(Basis.of(lens_of(llama), vectors_of(llama)), ["antonym"], "relations")
