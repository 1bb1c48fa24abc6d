"""Colours can be told from the page in both themes."""

import pytest

from fv_lens.plots import style


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """As WCAG 2.2 defines it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name, least", [("INK", 4.5), ("MUTED", 4.5), ("ACCENT", 3), ("LIGHT", 3), ("CONTROL", 3)])
def test_text_and_marks_can_be_told_from_the_page_in_both_themes(name, least):
    colour = getattr(style, name)
    assert contrast(colour, "#ffffff") >= least
    assert contrast(style.DARK[colour], style.DARK["#ffffff"]) >= least


def test_the_dark_scale_moves_away_from_the_page_as_the_light_one_does():
    for dark in (False, True):
        scale = style.shades(41, dark)
        seen = [contrast(colour, scale[20]) for colour in scale]
        assert seen[:21] == sorted(seen[:21], reverse=True) and seen[20:] == sorted(seen[20:])
        assert scale[20] == (style.DARK["#ffffff"] if dark else "#ffffff")
        warm = [int(colour[1:3], 16) - int(colour[5:7], 16) for colour in scale]  # red above blue
        assert all(x < 0 for x in warm[:19]) and all(x > 0 for x in warm[22:])
    assert style.shades(41)[0] == "#08306b" and style.shades(41)[-1] == "#6e2a04"
