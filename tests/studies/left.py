"""What a study leaves in its folder."""

import json
from pathlib import Path

from fv_lens.studies.folders import LOCK, MARKER

FILES = [LOCK, MARKER, "report.html", "results.csv", "stages", "summary.json", "vectors"]


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))
