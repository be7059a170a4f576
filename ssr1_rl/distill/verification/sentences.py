"""Splits the text that a model wrote into sentences, without a model and in time that is linear in its length.

A sentence ends at . ! ? or … before white space, and at the full stops of Chinese, Japanese, Arabic, Urdu and Hindi.
Not at a dot in a number or a file name, after an abbreviation, after the number of a list's item, or inside brackets or
quotation marks. A line break ends one too, unless the next line continues in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ALWAYS = frozenset({"e.g", "i.e", "cf", "vs", "mr", "mrs", "ms", "dr", "prof", "approx", "ca", "fig"})
"""Abbreviations that end no sentence."""
_BEFORE_LOWER_CASE = frozenset({"etc", "sec", "min", "no", "st"})
"""Abbreviations that end a sentence unless it continues in lower case or with a number."""

_DOTTED = re.compile(r"(?:\w\.)+\w")

_MARKUP = re.compile(r"\*\*|__|`|</?[A-Za-z]\w*>|^\s*#+\s*", re.MULTILINE)
_ITEM = re.compile(r"\s*(?:[-*•–—·]+|\(?\d{1,3}[.)])\s+")
_NUMBER = re.compile(r"(?:\(?\d{1,3}[.)]|Step \d+[.:])\s+")
_QUOTED = re.compile(r"\([^()]{0,200}\)|\"[^\"]{0,200}\"|“[^“”]{0,200}”|「[^「」]{0,200}」")
_END = re.compile(r"[.!?…]+[\"”’»)\]]*(?=\s|$)|[。！？｡؟۔।॥]+[」』”）]*")
_ENDS_LINE = re.compile(r"[.!?…:;。！？｡؟۔।॥][\"”’»)\]」』]*$")
_MAX_HEADING = 80


def sentences(text: str) -> list[str]:
    r"""The sentences of a text in their order, each with its end and on one line; markup and bullets are removed.

    A line that ends with a colon is put before each item of the list below it: "I hear:\n- a dog" is "I hear: a dog".
    """
    found: list[str] = []
    heading = ""
    for line, is_item in _lines(_MARKUP.sub("", text)):
        if line.endswith((":", "：")) and len(line) <= _MAX_HEADING:
            heading = line
            continue
        heading = heading if is_item else ""
        parts = _split(line)
        found += [f"{heading} {parts[0]}", *parts[1:]] if heading and parts else parts
    return found


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Lines without their bullets and whether they had one; a line that continues in lower case joins the one above."""
    pending: list[str] = []
    is_item = False
    for raw in text.splitlines():
        item = _ITEM.match(raw)
        line = " ".join(raw[item.end() :].split() if item else raw.split())
        continues = (
            bool(pending) and bool(line) and not item and line[0].islower() and not _ENDS_LINE.search(pending[-1])
        )
        if not continues:
            if pending:
                yield " ".join(pending), is_item
            pending, is_item = [], item is not None
        if line:
            pending.append(line)
    if pending:
        yield " ".join(pending), is_item


def _split(line: str) -> list[str]:
    """Sentences of one line."""
    quoted = iter([match.span() for match in _QUOTED.finditer(line)])
    start_of_quote, end_of_quote = next(quoted, (len(line), len(line)))
    parts: list[str] = []
    start = 0
    for match in _END.finditer(line):
        while end_of_quote < match.end():
            start_of_quote, end_of_quote = next(quoted, (len(line) + 1, len(line) + 1))
        is_quoted = start_of_quote < match.start() and match.end() < end_of_quote
        if not is_quoted and _is_end(line, start, match):
            parts.append(line[start : match.end()].strip())
            start = match.end()
    parts.append(line[start:].strip())
    return [found for part in parts if (found := _NUMBER.sub("", part))]


def _is_end(line: str, start: int, match: re.Match[str]) -> bool:
    """Whether the marks that `match` found end the sentence that began at `start`."""
    marks = match[0].rstrip('"”’»)]」』）')
    following = line[match.end() : match.end() + 2].strip()
    if marks != match[0] and (following[:1].islower() or line[match.end() : match.end() + 1].isalpha()):
        return False  # a quotation in the middle of a sentence
    if marks in ("...", "…"):
        return not following or not following[0].islower()
    if marks != ".":
        return True
    at = max(start, line.rfind(" ", start, match.start()) + 1)
    word = line[at : match.start()].lstrip("(\"“‘'").casefold()
    is_first = at - start <= 1  # the sentence before ends with one space
    if word in _ALWAYS or (is_first and (word.isdecimal() or len(word) == 1)):
        return False
    if word in _BEFORE_LOWER_CASE or _DOTTED.fullmatch(word):
        return not following or not (following[0].islower() or following[0].isdecimal())
    return True
