"""The check that every word passes, whatever its source: text that a person can see and a tokenizer accepts."""

import re
import unicodedata

from .errors import InputError

JOINERS = "\u200c\u200d"
# Format characters that are seen: signs of Arabic, Syriac and Kaithi that stand around a number or word.
_SEEN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Letters and symbols by their category that show nothing.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")  # of England, say: a black flag and hidden letters
_VIRAMA = 9  # combining class


def check_text(text: str, where: str) -> str:
    """`text` if it can be a word or a name; an InputError otherwise: "`where` ''; give a string ...".

    A word is a string of valid Unicode, neither empty nor with whitespace at its ends, without control characters or
    others that cannot be seen, so that words that look alike are alike. Combining marks and variation selectors are
    accepted. The two zero-width joiners are part of the spelling in some scripts: the non-joiner separates the stems of
    Persian words, the joiner shapes letters of Indic scripts and combines emoji. They are accepted after a virama, and
    between two marks, symbols or letters of a script without capitals, and nowhere else: between Latin letters they are
    left-overs from a web page.

    Example:
        >>> check_text("naïve", "a word is")
        'naïve'
    """
    if isinstance(text, str) and text.isascii() and text.isprintable() and text and text == text.strip():
        return text
    # A lone surrogate, which JSON can spell, is a str that no tokenizer takes.
    if not isinstance(text, str) or not text or text != text.strip() or text != text.encode(errors="ignore").decode():
        raise InputError(f"{where} {text!r}; give a string of valid Unicode, not empty, without whitespace at its ends")
    plain = _FLAG.sub("\U0001f3f4", text)
    for place, character in enumerate(plain):
        if _is_invisible(character) and not (character in JOINERS and _is_spelling(plain, place)):
            name = unicodedata.name(character, "a control character")
            raise InputError(f"{where} {text!r}, with U+{ord(character):04X} ({name}), which cannot be seen; remove it")
    return text


def _is_invisible(character: str) -> bool:
    hidden = unicodedata.category(character) in ("Cc", "Cf")
    return character in _BLANK or (hidden and character not in _SEEN)


def _is_spelling(text: str, place: int) -> bool:
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if before and unicodedata.combining(before) == _VIRAMA:
        return True
    return all(x and (unicodedata.category(x)[0] == "M" or unicodedata.category(x) in _JOINED) for x in (before, after))


_JOINED = ("Lo", "So", "Sk")  # letters without capitals, emoji, their skin tones
