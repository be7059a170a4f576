"""Keys that look like a reader's field but are not: `audio_path` for `audio`, `options` for `choices`, `Answer`.

A reader that ignored them would take a question with audio for one without, or one with choices for an open one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_CLIP = re.compile(r"\.(wav|flac|mp3|ogg|opus|m4a|aac|mp4|mkv|webm|mov|avi|aiff?|au|wma|amr|3gp)$", re.IGNORECASE)

_NAMES: Mapping[str, frozenset[str]] = {
    field: frozenset(names.split())
    for field, names in {
        "id": "id uid uuid qid questionid idx index key sampleid itemid rowid",
        "question": "question questions questiontext questioncontent query prompt problem instruction input text",
        "answer": (
            "answer answers answertext answeridx answerindex correct correctanswer correctchoice correctoption label "
            "gt gold goldanswer groundtruth target solution output response anser reference"
        ),
        "choices": (
            "choice choices option options optionlist choicelist multichoice multiplechoice candidates alternatives "
            "answerchoices answeroptions possibleanswers"
        ),
        "audio": (
            "audio audios audiopath audiopaths audioid audioids audiofile audiofiles audiofilename audiofilepath "
            "audioname audiourl audiouri audiourls audioclip audioclips wav wavs wavpath wavfile wavfiles wavfilename"
        ),
        "clip": (
            "sound sounds soundpath soundfile clip clips clippath clipfile speech speechpath music musicpath recording "
            "waveform video videos videoname videopath videofile media mediapath file files filename filepath path "
            "paths url uri mp3 flac mp4"
        ),
    }.items()
}
"""Names of each field elsewhere, without case, spaces, hyphens and underscores.

Those of `clip` stand for audio if their value is the path of a clip; otherwise they are metadata.
"""

_FIELDS = {
    "question_text": "question",
    "multi_choice": "choices",
    "video_name": "audio",
    "audio_id": "audio",
    "video_id": "audio",
    "question_content": "question",
    "question_id": "id",
    "anser": "answer",
}
"""The field of `_NAMES` that a reader's own name stands for, where it is another name."""

_LETTERED = re.compile(r"(option|choice|answer)?(a|b|1|2)")


def lookalikes(field: str, row: Mapping[str, object]) -> list[str]:
    """The keys of a row that look like `field`, which the row does not have; keys without a value do not count."""
    known = _NAMES.get(_FIELDS.get(field, field), frozenset((_plain(field),)))
    found = [key for key, value in row.items() if key != field and _plain(key) in known and _has_value(value)]
    if _FIELDS.get(field, field) == "audio":
        found += [key for key, value in row.items() if _plain(key) in _NAMES["clip"] and _is_clip(value)]
    if _FIELDS.get(field, field) == "choices":
        lettered = [key for key, value in row.items() if _LETTERED.fullmatch(_plain(key)) and _has_value(value)]
        found += lettered if len(lettered) > 1 else []
    return found


def named(keys: Iterable[str]) -> str:
    """Keys as errors write them."""
    return " and ".join(repr(key) for key in keys)


def _plain(key: str) -> str:
    return re.sub(r"[\s_.-]", "", key.casefold())


def _has_value(value: object) -> bool:
    return value is not None and value != "" and value != []


def _is_clip(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_clip, value))
    return isinstance(value, str) and _CLIP.search(value.strip()) is not None
