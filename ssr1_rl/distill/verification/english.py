"""The English words by which `claims` finds claims, as expressions over text whose white space is single spaces."""

from __future__ import annotations

import re


def _words(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


_ADVERBS = "(?: (?:also|clearly|now|first|only|just|still|mainly|distinctly|faintly|even|both))*"
_HEARS = (
    f"(?:i|we|you|one|the listener){_ADVERBS}(?: (?:can|could|do))?{_ADVERBS} "
    "(?:hear|heard|notice|noticed|detect|detected|perceive|recogni[sz]e|identify|make out)(?: that)?"
)
_NOUN = "(?:audio|clip|recording|soundtrack|scene|sounds?|noises?)"
_SOUNDS = f"(?:(?:the|this|these|all) )?{_NOUN} (?:is|are|was|were|has|have|contains?|includes?|features?|consists? of)"

LEAD = _words(
    f"(?:(?:in|at|during|from|throughout|on) [^,;:]{{1,60}}, )?(?:first(?: of all)?,? )?"
    f"(?:{_HEARS}|there(?: (?:is|are|was|were)|['’]s)|(?:it|this|that) sounds? like|{_SOUNDS}|[^:,;]{{1,80}}:)"
    rf"{_ADVERBS} (?=\S)"
)
"""The start of a clause that says that what follows is heard."""

TRAIL = _words(
    " (?:is|are|was|were|can be|could be) (?:also |clearly )?(?:heard|audible|present|playing)(?: .{0,80})?$"
)
"""The end of a clause that says that what stands before it is heard."""

COPULA = _words(f"{_NOUN} (?:is|are|was|were) ")
"""In a lead: adjectives may follow, each a statement."""

ORDERED = _words(r"\bin (?:\w+ )?order\b|\bsequence\b")
"""In a lead: the order of the list is a statement too."""

_ORDER_WORDS = (
    "(?:then|after that|after which|afterwards?|followed by|next(?! to)|finally|lastly|later(?: on)?|eventually|"
    "subsequently|meanwhile|at the same time"
)
ORDER = _words(rf"(?: ?[,;] ?(?:and |but )?| and ){_ORDER_WORDS}|while|before)\b")
"""Connects a clause with the one before it in time."""

ORDER_IN_LIST = _words(rf"{ORDER.pattern}| (?:then|followed by|while)\b")
"""The same in a list of what is heard: "I hear a dog then a car". Elsewhere it may be "the music then stops"."""

STARTS_WITH_ORDER = _words(rf"(?:{_ORDER_WORDS})|(?:this|it|that) is followed by)\b,? ?")
"""The start of a sentence that refers to the one before it. "While a dog barks, …" and "Before …" refer to what follows
them."""

HARD_BREAK = _words("[;；] ?| ?, ?(?=(?:but|yet|whereas|so|thus|therefore|hence) )")
SOFT_BREAK = _words(
    r" ?, and (?=(?:an?|the|some|several|another|it|he|she|they|there|i|we|you|someone|something|no) \S+ \S)"
)
"""Where a clause may end, if it has three words at least."""

IN_LIST = _words(" ?, ?(?:and |& )?| (?:and|&|plus|as well as|along with) ")
DETERMINED = _words(
    "(?:an?|the|one|two|three|four|five|six|seven|eight|nine|ten|[0-9]+|some|several|many|another|no|someone"
    "|something) "
)
STARTS_WITH_PRONOUN = _words("(?:it|its|they|their|he|his|she|her|this|these|both) ")
"""The start of a clause that nobody can judge without the one before it."""
ONLY_A_THING = _words(
    r"(?!(?:an?|another|one) .*[^su]s$)"
    r"(?:an?|another|no|some|several|one|two|three|[0-9]+)(?: (?!(?:is|are|was|were|has|have|does|can|could)\b)\S+)+$"
)
"""A thing without a verb, as after "but" in "I hear a dog, but no car"; "a car passes" ends with one."""
NO_THING = _words(
    r"(?:but|so|or|it|he|she|they|there|i|we|you|which|who|whose|where|when|while|because|since|then|with|if|not|both|"
    r"either|neither|between|by|in|on|at|from|of|for|to|e\.g|i\.e)\b|.* or "
)
"""The start of what is no thing of a list."""
MODIFIES = _words(r"(?:that|\w+ing|\w+ed|often|loudly|again)\b")
"""The start of what belongs to the thing before it: "a dog barking, whining and growling"."""

QUALITIES = _words(
    "(?:(?:very|an?|the|loud|soft|quiet|faint|high|low|deep|sharp|harsh|metallic|long|short|fast|slow|steady|rhythmic|"
    "rapid|distant|clear|muffled|hollow|bright|dark|heavy|light|gentle|rough|smooth|continuous|repeated|rising|falling|"
    r"strong|weak|sudden|brief|warm|big|small|old|young|black|white|\w+ly)(?: |$))+$"
)
"""Adjectives alone: "a loud" of "a loud, harsh and low hum"."""
TOGETHER = _words(
    " ?,? ?(?:all )?(?:at the same time|together|simultaneously|in (?:that|this) order|in turn|alternately)$"
)
"""Says something about all things of a list."""

CONCLUDES = _words(r"(?:so|thus|therefore|hence|in conclusion)\b")
OPENER = _words(
    rf"(?:(?:{CONCLUDES.pattern}|(?:overall|in summary|okay|ok|well|also|additionally|moreover|furthermore|however|and|"
    r"but|yet|whereas)\b),? ?)+"
)
ONLY_AN_ANSWER = _words(r"(?:it|this|that)(?: (?:is|was|must|has to|would|should|means)|['’]s)\b")
"""The start of a conclusion that names what the question asks for."""
CONCLUSION = _words(
    r"\b(?:the|my|our|this|that) (?:\w+ ){0,3}(?:answers?|options?|choices?)\b[^.]{0,60}? "
    r"(?:is|are|was|be|seems?|fits)\b|\b(?:correct|right|best|final) (?:answer|option|choice)\b"
    r"|\b(?:option|choice|answer) \(?(?-i:[A-H])\b\)?"
    r"|^answer\b ?:|^(?:i|we) (?:(?:will|would|can|should) )?(?:choose|pick|select|conclude|go with|answer|opt)\b"
    r"|\b(?:is|be) (?:the|my) (?:\w+ ){0,2}(?:answer|option|choice)\b"
    r"|^\(?(?-i:[A-H])\)?(?:$| (?:is|are|fits|matches|cannot|seems)\b)"
)
REASON = _words(r"\b(?:because|since) ")
PLAN = _words(
    r"(?:let (?:me|us)|let['’]s|(?:i|we) (?:need|have to|want|should|must|will|am (?:going|asked))|i['’](?:ll|m going)"
    r"|to (?:answer|determine|decide|find out)|(?:the|this) (?:question|task)|(?:looking at|considering|among) the "
    r"(?:options|choices)|listen(?:ing)? (?:for|again|carefully))\b|(?:hmm+|wait)$"
)
"""The start of what a chain says about itself."""
