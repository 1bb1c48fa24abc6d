"""Build the API pages from the docstrings, with every warning of pdoc an error: python demos/pages/api.py [folder]

The pages are those of `fv_lens`, whose public names stand in the order of the pipeline, and of `fv_lens.plots`.
"""

import re
import sys
import warnings
from pathlib import Path

import pdoc

import fv_lens

MODULES = "fv_lens", r"!fv_lens\.plots\..+"  # figures are functions, with the names of their modules


def build(folder: Path) -> list[str]:
    """Write the pages; the names that the first of them explains, in its order."""
    for name in fv_lens.__all__:  # pdoc finds what has been imported
        getattr(fv_lens, name)
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*MODULES, output_directory=folder)
    page = (folder / "fv_lens.html").read_text(encoding="utf-8")
    return re.findall(r'<section id="(\w+)">', page)


def main(folder: Path) -> None:
    """Build the pages, and see that no public name is missing."""
    shown = build(folder)
    expected = [name for name in fv_lens.__all__ if name != "plots"]  # which has a page of its own
    if shown != expected:
        sys.exit(f"The page explains {', '.join(shown)}; expected {', '.join(expected)}.")
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/api"))
