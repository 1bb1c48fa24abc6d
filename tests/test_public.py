"""Every public name is there, and none is hidden by a module of the same name."""

import ast
import compileall
import inspect
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fv_lens

MODULES = {module.name for module in pkgutil.iter_modules(fv_lens.__path__)}


@pytest.mark.parametrize("name", fv_lens.__all__)
def test_a_public_name_is_that_of_its_module(name):
    value = getattr(fv_lens, name)
    if name in MODULES:
        assert inspect.ismodule(value) and value.__name__ == f"fv_lens.{name}", "a module hides it once imported"
    else:
        assert value.__module__.startswith("fv_lens.") and value.__name__ == name and value.__doc__
    assert name in dir(fv_lens)


def test_type_checkers_see_every_public_name():
    """They take what a package imports for its own use unless it is imported under its own name again."""
    source = Path(fv_lens.__file__).read_text(encoding="utf-8")
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    names = [name for node in block.body for name in node.names]
    assert [name.asname for name in names] == [name.name for name in names] == fv_lens.__all__


@pytest.mark.slow
def test_an_installation_without_sources_has_every_public_name(tmp_path):
    package = tmp_path / "fv_lens"
    shutil.copytree(Path(fv_lens.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(package, quiet=1, legacy=True)
    for file in package.rglob("*.py"):
        file.unlink()
    code = "import fv_lens; fv_lens.Relation; print(fv_lens.__file__, *fv_lens.__all__)"
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    file, *names = done.stdout.split()
    assert file.endswith(".pyc") and names == fv_lens.__all__


def test_what_readings_are_scored_by_comes_with_what_makes_them():
    assert {"all_readings", "log_probs", "name_scores", "choose_reading", "rank_test"} <= set(fv_lens.__all__)
    assert {"Study", "Settings"} <= set(fv_lens.__all__)


@pytest.mark.parametrize("name", ["nothing", "cli_app"])
def test_another_name_is_an_error_that_lists_the_public_ones(name):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; public are load_model, Relation"):
        getattr(fv_lens, name)
