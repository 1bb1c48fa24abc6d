"""Make a function vector, keep it in a file, and patch it into a model: python patch_in_a_script.py"""

import fv_lens

model = fv_lens.load_model()  # or the HookedTransformer or TransformerBridge that you have
relation = fv_lens.load_relation("present-past")

fv = fv_lens.finetune(model, relation, layer=17)  # learned on 20 pairs, about ten seconds on two cores
fv.save("present-past.safetensors")
fv = fv_lens.FunctionVector.load("present-past.safetensors")
print(fv)


def complete(word: str) -> str:
    """The model's greedy answer, up to the end of its line."""
    prompt = f"Q: {word}\nA:"
    text = str(model.generate(prompt, max_new_tokens=4, do_sample=False, verbose=False))
    return text.removeprefix(prompt).split("\n")[0].strip()


words = relation.split().test.words[:5]  # the vector has not seen them
print("without:", {word: complete(word) for word in words})
with fv_lens.patch(model, fv):  # added at the last token of each prompt, after block 17
    print("with:   ", {word: complete(word) for word in words})

handle = fv_lens.patch(model, fv, strength=0.5)  # or as a handle, half as strong
print("half:   ", {word: complete(word) for word in words})
handle.remove()
