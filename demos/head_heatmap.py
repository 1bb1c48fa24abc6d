"""The indirect effect of every head on a relation, as a page: python head_heatmap.py [relation [prompts]]"""

import sys

import fv_lens

relation = sys.argv[1] if len(sys.argv) > 1 else "antonym"  # a bundled name, or the path of your own pairs
n_prompts = int(sys.argv[2]) if len(sys.argv) > 2 else 10  # 25 as in Todd et al. 2024: narrower intervals

model = fv_lens.load_model()
effects = fv_lens.indirect_effects(model, relation, n_prompts=n_prompts, n_mean_prompts=40)
writers, cancellers = effects.top(5), effects.top(5, sign=-1)

frame = effects.to_frame().set_index(["layer", "head"])
print(frame.loc[[*writers, *cancellers], ["effect", "low", "high"]].round(4))
effects.save("effects.safetensors")  # fv_lens.HeadEffects.load reads it

fv_lens.plots.head_effects(effects, chosen=writers).write_html("head_heatmap.html")  # needs no network to be opened
print("Open head_heatmap.html")
