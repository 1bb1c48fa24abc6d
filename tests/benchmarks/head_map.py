"""The engine's head map beside full serial forwards and beside its own matmuls, in one process.

    python -m tests.benchmarks.head_map [--model NAME] [--hooked] [--prompts 25]

Serial forwards (one prompt, one head, `model.run_with_hooks`) are sampled between the engine's runs, and their median
is extended linearly to the whole map. The skeleton is the engine's own matmuls, recorded once and replayed on
preallocated tensors with nothing between them: the time no implementation with these shapes can go below.
"""

import argparse
import resource
import statistics

import torch

from fv_lens.datasets.prompts import corrupted
from fv_lens.datasets.relation_files import load_relation
from fv_lens.engine.batches import batch
from fv_lens.engine.whatif import Edit, what_if
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.vectors.mediation import mean_head_outputs

from .matmuls import Matmuls
from .timing import timed


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--hooked", action="store_true", help="as a HookedTransformer (TransformerLens 3.x)")
    parser.add_argument("--relation", default="antonym")
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--sample", type=int, default=48, help="serial forwards to time")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()

    model = load_model(options.model, cls="hooked" if options.hooked else None)
    lens, relation = lens_of(model), load_relation(options.relation)
    prompts = batch(lens, corrupted(relation.split().train, options.prompts, options.shots))
    mean_s, (mean_z, _) = timed(lambda: mean_head_outputs(model, relation, 100, options.shots))
    heads = [(layer, head) for layer in range(lens.n_layers) for head in range(lens.n_heads)]
    edits = [[Edit(layer, mean_z[layer, head], head)] for layer, head in heads]
    answer = prompts.answer_ids.to(lens.device)

    def log_prob(logits, prompt):
        return logits[:, 0].gather(1, answer[prompt, None])[:, 0] - logits[:, 0].logsumexp(-1)

    def engine():
        return what_if(lens, prompts.tokens, prompts.mask, edits, log_prob)

    def serial(prompt, index):
        ids, (layer, head) = prompts.tokens[prompt][prompts.mask[prompt].bool()], heads[index]

        def edit(z, hook):
            z[:, -1, head] = mean_z[layer, head].to(z)
            return z

        logits = model.run_with_hooks(ids[None].to(lens.device), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", edit)])
        return logits[0, -1].float().log_softmax(-1)[answer[prompt]].exp().item()

    with Matmuls(model) as recorded:
        effects = engine().exp()
    matmuls = recorded.replay()

    serial(0, 0), matmuls()  # warm up
    generator = torch.Generator().manual_seed(0)
    sample = torch.randint(len(prompts) * len(heads), (options.sample,), generator=generator).tolist()
    map_s, serial_s, skeleton_s, mean_runs, worst = [], [], [], [mean_s], 0.0
    for part in range(options.rounds):
        map_s.append(timed(engine)[0])
        for at in sample[part :: options.rounds]:
            prompt, index = divmod(at, len(heads))
            seconds, probability = timed(lambda p=prompt, i=index: serial(p, i))
            serial_s.append(seconds)
            worst = max(worst, abs(probability - effects[prompt, 1 + index].item()))
        skeleton_s.append(timed(matmuls)[0])
    mean_runs.append(timed(lambda: mean_head_outputs(model, relation, 100, options.shots))[0])

    one, whole = statistics.median(serial_s), statistics.median(map_s)
    bare, mean = statistics.median(skeleton_s), min(mean_runs)
    forwards = len(prompts) * (len(heads) + 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = f"{len(heads)} heads x {len(prompts)} prompts of up to {prompts.tokens.shape[1]} tokens"
    print(f"{lens.name} ({type(model).__name__}): {size}")
    print(f"rows run {lens.parity.forms[0]}; {torch.get_num_threads()} threads, {lens.dtype}, {lens.device}")
    print(f"engine    {whole:8.1f} s   (median of {len(map_s)}: {', '.join(f'{s:.1f}' for s in map_s)})")
    extended = f"{forwards} forwards at {one:.3f} s, extended from the median of {len(serial_s)}"
    print(f"serial    {one * forwards:8.0f} s   ({extended})")
    print(f"skeleton  {bare:8.1f} s   (median of {len(skeleton_s)}: {', '.join(f'{s:.1f}' for s in skeleton_s)})")
    print(f"mean head outputs over 100 prompts {mean:.1f} s")
    print(f"serial / engine        {one * forwards / whole:8.1f}")
    print(f"engine / skeleton      {whole / bare:8.2f}")
    print(f"mean outputs / engine  {mean / whole:8.2f}")
    print(f"largest difference of a probability on the sample {worst:.1e}")
    on_gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GB on the GPU" if lens.device.type == "cuda" else ""
    print(f"peak memory {peak:.2f} GB{on_gpu}")


if __name__ == "__main__":
    main()
