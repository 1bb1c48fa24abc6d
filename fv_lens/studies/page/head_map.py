"""The head map as interactive HTML: a head opens to its intervals, its prompts and its words."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ...ground.markup import minus
from ...plots.head_cells import HeadCells, checked_head, outlined
from ...vectors.effects import HeadEffects
from ...vectors.summed import Heads
from .parts import N_SHADES, embedded, templates

EMBEDDED = 50_000  # effects of one prompt each that a page holds at most in each measure
NAMES = {"probability": "probability", "log_prob": "log-probability"}


def head_map(
    effects: HeadEffects,
    chosen: Heads = (),
    words: Mapping[tuple[int, int], Sequence[str]] | None = None,
) -> Markup:
    """Mean indirect effects, layer by head, as a grid of coloured cells for a page (see `page.write_page`).

    Orange heads raise the answer's probability (writers), blue ones lower it (cancellers); colours end at the 99.5th
    percentile of the absolute effects. Arrow keys move, and Enter, Space or a click opens a head. Without scripts the
    map of probabilities itself is there. Effects prompt by prompt are those of the strongest heads where all would make
    the page too large.

    Args:
        chosen: (layer, head) to outline, such as a vector's `heads`.
        words: (layer, head) -> what the head's mean output promotes, as `head_words` gives it.

    Raises:
        InputError: a chosen head, or one with words, outside the map.

    Example:
        >>> write_page("page.html", "antonym", [head_map(effects, effects.top(10), head_words(model, effects))])
    """
    n, n_layers, n_heads = effects.values.shape
    chosen = sorted({checked_head(head, n_layers, n_heads) for head in chosen})
    words = {checked_head(head, n_layers, n_heads): list(of) for head, of in (words or {}).items()}
    start = effects.mean.abs().nan_to_num().argmax().item()  # the cell that the tab key comes to
    measures = {measure: _measure(HeadCells.of(effects, measure)) for measure in NAMES}
    data = {
        "layers": n_layers, "heads": n_heads, "measures": measures,
        "of": _kind(effects), "asked": _measured_on(effects),
        "chosen": [layer * n_heads + head for layer, head in chosen],
        "words": {layer * n_heads + head: of for (layer, head), of in words.items()} if words else None,
    }  # fmt: skip
    called = f"map-{zlib.crc32(json.dumps(data).encode()):08x}"  # the same whenever it is written
    return Markup(templates().get_template("head_map.html").render(
        called=called, n_layers=n_layers, n_heads=n_heads, height=min(28, max(14, 640 // n_layers)), names=NAMES,
        what=_what(effects, chosen), note=_note(n, effects.n_heads, _kind(effects), measures),
        shown=measures["probability"], stops=", ".join(f"var(--shade-{i})" for i in range(N_SHADES)),
        chosen={layer * n_heads + head for layer, head in chosen}, start=start, data=embedded(data),
    ))  # fmt: skip


def _measure(cells: HeadCells) -> dict[str, Any]:
    """What the map shows of one measure; lists run over the heads, layer by layer."""
    n, n_layers, n_heads = cells.values.shape
    each, strongest = cells.values.reshape(n, -1).T, cells.strongest(max(1, EMBEDDED // n))
    return {
        "name": NAMES[cells.measure], "unit": cells.unit, "limit": f"{cells.limit:.2g}", "past": cells.clipped,
        "shown": [_head_label(cells, layer, head) for layer in range(n_layers) for head in range(n_heads)],
        "shades": cells.shades(N_SHADES),
        "each": [[float(f"{x:.3g}") for x in of] if i in strongest else None for i, of in enumerate(each)],
    }  # fmt: skip


def _head_label(cells: HeadCells, layer: int, head: int) -> str:
    """A head's mean effect as its name says it; writer or canceller only where the interval shows the sign."""
    if (score := cells.score(layer, head)) is None:
        return "the layer has no heads"
    kind = "writer" if score.low > 0 else "canceller" if score.high < 0 else "not shown to differ from 0"
    return minus(cells.written(score) + (f", {kind}" if score.known else ""))


def _kind(effects: HeadEffects) -> str:
    return "relation" if effects.of_relations else "prompt"


def _measured_on(effects: HeadEffects) -> list[str] | None:
    """What each effect of a head was measured on, where the effects know it."""
    if effects.batch is not None:
        return list(effects.batch.words)
    relations = effects.record.get("relations")
    return None if relations is None else list(map(str, relations))


def _what(effects: HeadEffects, chosen: Heads) -> str:
    known = ("model",) if effects.of_relations else ("relation", "model")  # a mean's relation is a long list
    said = "".join(f"{effects.record[name]}, " for name in known if effects.record.get(name))
    return " ".join([f"{said}mean over {effects.over}.", *outlined(chosen)])


def _note(n: int, n_heads: int, kind: str, measures: Mapping[str, Any]) -> str:
    lines = []
    if any(measure["past"] for measure in measures.values()):
        lines.append("Colours end at the 99.5th percentile of the absolute effects.")
    if n > 1:
        lines.append(
            f"Intervals: 95 %, bootstrap over {kind}s, of each head by itself. They are not corrected for picking the "
            f"largest of {n_heads} heads, whose true effects are likely smaller than shown."
        )
    if None in measures["probability"]["shades"]:
        lines.append("Cells without a colour: layers without heads.")
    if n_heads > sum(each is not None for each in measures["probability"]["each"]):
        kept = sum(each is not None for each in measures["probability"]["each"])
        lines.append(f"Effects {kind} by {kind} are kept of the {kept} strongest heads.")
    return " ".join(lines)
