"""The harness's own command line with fv_lens as a model: python -m fv_lens.evaluation.harness --model fv_lens ..."""

from .arguments import NamedLM
from .lm_eval_names import cli_evaluate, model_registry

if __name__ == "__main__":
    model_registry.register("fv_lens", target=NamedLM)
    cli_evaluate()
