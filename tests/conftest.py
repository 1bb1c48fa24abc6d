"""Types and shapes are checked while the suite runs: jaxtyping wraps fv_lens before it is imported.

`typechecker` says what is checked when, so that tests of bad input need no mark of their own.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook  # noqa: E402

from . import typechecker  # noqa: E402, F401

install_import_hook("fv_lens", "tests.typechecker.checked")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from . import tiny  # noqa: E402

# A busy machine is slow, and no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

torch.set_num_threads(1)  # the models are tiny, and waiting for a second thread takes longer than the work


@pytest.fixture(scope="session", params=tiny.NAMES)
def model(request):
    """Every architecture, one after the other."""
    return tiny.build(request.param)


@pytest.fixture(scope="session")
def llama():
    return tiny.build("llama")


@pytest.fixture(scope="session")
def words():
    """A relation over the tiny tokenizer's words: w0 -> w1, w2 -> w3, ..."""
    from fv_lens.datasets.relations import Relation

    return Relation("successor", [(f"w{i}", f"w{i + 1}") for i in range(0, 80, 2)])


@pytest.fixture(scope="session")
def default_model():
    from fv_lens.models.load import load_model

    return load_model()
