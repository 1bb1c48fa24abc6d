"""Your own model and word pairs: python your_own_model.py [name or folder [hooked]]

A second argument "hooked" loads a HookedTransformer, which TransformerLens has up to 3.9.
"""

import sys

import fv_lens
from fv_lens.models.model import Model

CONTINENTS = {
    "Europe": "France Germany Italy Spain Poland Sweden Norway Greece Austria",
    "Africa": "Kenya Egypt Nigeria Ghana Morocco Algeria Ethiopia Uganda Senegal",
    "Asia": "China Japan India Vietnam Thailand Nepal Mongolia Pakistan Indonesia",
    "South America": "Brazil Argentina Chile Peru Bolivia Ecuador Uruguay Colombia Venezuela",
}


def study(model: Model) -> None:
    """Find, tune and test a vector of your own pairs on any HookedTransformer or TransformerBridge."""
    pairs = [(country, continent) for continent, names in CONTINENTS.items() for country in names.split()]
    relation = fv_lens.Relation("country-continent", pairs)  # (word, answer) or (word, [answer, answer, ...])
    effects = fv_lens.indirect_effects(model, relation, n_prompts=5, n_shots=5, n_mean_prompts=10)
    print("strongest heads (layer, head):", effects.top(5))
    layer = round(0.57 * model.cfg.n_layers)  # leave it out, and three depths are tried on validation pairs
    tuned = fv_lens.finetune(model, relation, layer=layer, n_pairs=14, n_validation=7)
    print(fv_lens.evaluate(model, relation, tuned))


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
    # Yours goes here: HookedTransformer.from_pretrained("gpt2"), TransformerBridge.boot_transformers("gpt2"), processed
    # or not, on any device; fv_lens asks nothing else of it.
    study(fv_lens.load_model(name, cls="hooked" if "hooked" in sys.argv[2:] else "bridge"))
