"""The names of lm-evaluation-harness that fv_lens uses, in one place; an InputError where it is not installed."""

from ...ground.errors import InputError

try:
    from lm_eval import evaluator as evaluator
    from lm_eval import simple_evaluate as simple_evaluate
    from lm_eval.__main__ import cli_evaluate as cli_evaluate
    from lm_eval.api.instance import Instance as Instance
    from lm_eval.api.model import TemplateLM as TemplateLM
    from lm_eval.api.registry import model_registry as model_registry
    from lm_eval.models.utils import Collator as Collator
    from lm_eval.models.utils import handle_stop_sequences as handle_stop_sequences
    from lm_eval.models.utils import normalize_gen_kwargs as normalize_gen_kwargs
    from lm_eval.models.utils import postprocess_generated_text as postprocess_generated_text
    from lm_eval.tasks import TaskManager as TaskManager
    from lm_eval.utils import get_rolling_token_windows as get_rolling_token_windows
    from lm_eval.utils import handle_non_serializable as handle_non_serializable
    from lm_eval.utils import make_disjoint_window as make_disjoint_window
    from lm_eval.utils import simple_parse_args_string as simple_parse_args_string
except ImportError as error:
    raise InputError(
        "Benchmarks need lm-evaluation-harness 0.4.13 or newer, which is not installed, or not whole "
        f'({error}): pip install "fv-lens[harness]".'
    ) from None
