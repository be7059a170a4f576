"""Splits a chain of thought into its factual claims, each to be judged by itself against the audio.

The rules are for English; of other languages each sentence is one claim. `verifier.claim_pattern` replaces them.

- A sentence is split at semicolons, before ", but", ", so" and the like, and before ", and" where a clause follows.
- A list of what is heard gives one claim for each thing: "I hear a dog, a car and a horn" gives "I hear a dog",
  "I hear a car", "I hear a horn".
- What follows an order word ("then", "followed by", "while", …) keeps what stands before it, or nobody could judge the
  order: "I hear a dog then a car then a horn" gives "I hear a dog", "I hear a dog then a car", "I hear a car then a
  horn". So does a sentence that begins with one: "A dog barks. Then a car passes".
- No claims: questions, plans ("Let me listen"), and conclusions that only name an answer ("So the answer is B").
- A claim that a chain makes twice is one claim.

Nothing here understands the text. Where a list may not be one ("a man and woman talking"), the clause stays whole: it
is judged as well, only more coarsely.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ssr1_rl.distill.verification import english
from ssr1_rl.distill.verification.sentences import sentences

_ENDS = " \t.!…。！｡۔।॥;；,，:："
_MAX_CONTEXT = 500
"""Longest text that is put before an order word, in characters."""


@dataclass(frozen=True)
class _Clause:
    """A part of a sentence; `joint` is the order word, with its comma, that refers to the clause before it."""

    text: str
    joint: str = ""


def split_claims(thoughts: str, pattern: str = "") -> list[str]:
    """The claims of a chain of thought in their order, each once.

    Args:
        thoughts: the text inside <think> </think>.
        pattern: a regular expression; if given, its matches are the claims, or what its first group matches.
    """
    if pattern:
        matches = re.finditer(pattern, thoughts)
        found = [match[1] if match.re.groups else match[0] for match in matches]
        return _once(" ".join((text or "").split()) for text in found)
    claims: list[str] = []
    before = ""  # the clause that an order word or a pronoun refers to
    for sentence in sentences(thoughts):
        lead = ""
        for clause in _clauses(sentence, has_before=bool(before)):
            own = english.LEAD.match(clause.text)
            lead = own[0] if own else lead
            # "I hear a dog then a car", "…, but no car": the second clause has no "I hear" of its own.
            lacks = bool(lead) and not own and bool(clause.joint or english.ONLY_A_THING.match(clause.text))
            parts = _parts(clause.text if clause.joint or not lacks else lead + clause.text, listed=lacks)
            refers = not own and not clause.joint and bool(before) and english.STARTS_WITH_PRONOUN.match(clause.text)
            joint = ". " if refers else clause.joint and f"{clause.joint} "
            claims += [before + joint + part for part in parts] if joint and len(before) <= _MAX_CONTEXT else parts
            if not refers:
                before = lead + clause.text if lacks else clause.text
    return _once(claims)


def _once(claims: Iterator[str] | list[str]) -> list[str]:
    """Each claim once, without those that hold no letter and no digit."""
    return list(dict.fromkeys(claim for claim in claims if re.search(r"\w", claim)))


def _clauses(sentence: str, has_before: bool) -> Iterator[_Clause]:
    """The clauses of a sentence that state something."""
    if sentence.endswith(("?", "？", "؟")):
        return
    for number, piece in enumerate(english.HARD_BREAK.split(sentence)):
        statement = _statement(piece.strip(_ENDS))
        starts = english.STARTS_WITH_ORDER.match(statement)
        joint = ""
        if starts and has_before and number == 0 and starts.end() < len(statement):
            joint, statement = f". {starts[0].strip()}", statement[starts.end() :].strip()
        if statement:
            yield from _in_order(statement, joint)


def _in_order(statement: str, joint: str) -> Iterator[_Clause]:
    """The clauses of a statement, cut where an order word or a further clause begins."""
    order = english.ORDER_IN_LIST if english.LEAD.match(statement) or joint else english.ORDER
    start = 0
    for match in order.finditer(statement):
        text = statement[start : match.start()].strip(_ENDS)
        if text and statement[match.end() :].strip(_ENDS):
            yield from _soft(text, joint)
            joint, start = match[0], match.end()
    yield from _soft(statement[start:].strip(_ENDS), joint)


def _soft(text: str, joint: str) -> Iterator[_Clause]:
    """The clauses of a text that has no order words; a list stays in one clause."""
    if len(_parts(text)) > 1:
        yield _Clause(text, joint)
        return
    start = 0
    for match in english.SOFT_BREAK.finditer(text):
        if text.count(" ", start, match.start()) >= 2:
            yield _Clause(text[start : match.start()], joint)
            joint, start = "", match.end()
    yield _Clause(text[start:], joint)


def _statement(piece: str) -> str:
    """What a piece of a sentence states, without "so" and "however" before it; empty if it states nothing to hear."""
    concludes = english.CONCLUDES.match(piece)
    if opener := english.OPENER.match(piece):
        piece = piece[opener.end() :]
    if english.PLAN.match(piece):
        piece = piece.partition(":")[2].strip()
    is_conclusion = english.CONCLUSION.search(piece) or (concludes and english.ONLY_AN_ANSWER.match(piece))
    if not is_conclusion:
        return piece
    reason = english.REASON.search(piece)
    parts = piece[reason.end() :].split(", ") if reason else []
    # "Since the dog barks, the answer is B"
    return ", ".join(itertools.takewhile(lambda part: not english.CONCLUSION.search(part), parts))


def _parts(text: str, listed: bool = False) -> list[str]:
    """A clause's claims: one for each thing of its list, with the words before and after the list; else the clause.

    Args:
        listed: a clause without a verb of its own, as in "then a car and a horn".
    """
    lead, trail = english.LEAD.match(text), english.TRAIL.search(text)
    start = lead.end() if lead else 0
    end = trail.start() if trail and not lead else len(text)
    if not (lead or listed or end < len(text)):
        return [text]
    together = english.TOGETHER.search(text, start, end)
    things = _things(text[start : together.start() if together else end], lead[0] if lead else "")
    if len(things) == 1:
        return [text]
    parts = [text[:start] + thing + text[end:] for thing in things]
    is_ordered = together or (lead and english.ORDERED.search(lead[0]))
    return [*parts, text] if is_ordered else parts


def _things(text: str, lead: str) -> list[str]:
    """The things of the list that follows `lead`, or the text alone if it may be no list."""
    things = [thing.strip() for thing in english.IN_LIST.split(text)]
    if len(things) < 2 or not all(things) or any(english.NO_THING.match(thing) for thing in things):
        return [text]
    links = [match[0].strip(" ,").casefold() for match in english.IN_LIST.finditer(text)]
    # "a, b and c" or "a and b"; else the words between may belong to one thing: "a long and loud, low hum".
    is_closed = bool(links[-1]) and not any(links[:-1])
    determined = [english.DETERMINED.match(thing) is not None for thing in things]
    if all(determined) or lead.rstrip().endswith(":"):
        return things
    may_be_qualities = english.COPULA.search(lead) is not None  # "the sound is loud and harsh"
    if not is_closed or (not may_be_qualities and any(map(english.QUALITIES.match, things[:-1]))):
        return [text]
    if any(determined) and (len(things) == 2 or any(english.MODIFIES.match(thing) for thing in things[1:])):
        return [text]
    return things
