"""Reads every split, has its files decoded, and compares: what is missing, broken, too long, said twice, or leaked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.check.measure import Measured, Media
from ssr1_rl.data.check.report import ERRORS, Finding, Report, SplitSummary
from ssr1_rl.data.check.splits import TRAIN
from ssr1_rl.data.choices import folded
from ssr1_rl.data.read import read_all
from ssr1_rl.data.row_error import shown
from ssr1_rl.data.rows import ReadResult, SkippedRow
from ssr1_rl.data.splits import check_paths
from ssr1_rl.errors import UserError
from ssr1_rl.types import AudioRef, Question

Measure: TypeAlias = Callable[[Sequence[Media]], Sequence[Measured]]
"""Decodes files; `ssr1_rl.data.check.on_ray` does."""


@dataclass(frozen=True)
class _Read:
    """A split that was read."""

    setting: str
    dataset: DatasetConfig
    result: ReadResult


def check_data(splits: Mapping[str, DatasetConfig], measure: Measure) -> Report:
    """Checks every split; they are named by their section of the settings, those of training first."""
    findings: list[Finding] = []
    read: list[_Read] = []
    for setting, dataset in splits.items():
        try:
            check_paths(dataset, setting)
            result = read_all(dataset)
        except UserError as error:
            findings.append(Finding(setting, "unreadable split", dataset.path, str(error)))
            continue
        read.append(_Read(setting, dataset, result))
        findings += [
            Finding(setting, _kind(row), f"{row.source} row {row.row}", f"{row.field}: {row.reason}")
            for row in result.skipped
        ]
    files = list(
        dict.fromkeys(file for split in read for question in split.result.questions for file in _files(question))
    )
    measured = dict(zip(files, measure(files), strict=True))
    train: dict[object, Question] = {}
    clips_of_train: dict[str, str] = {}
    for split in read:
        findings += _of_files(split, measured)
        is_train = split.setting.endswith(TRAIN)
        findings += _of_questions(split, measured, {} if is_train else train)
        findings += _of_clips(split, measured, {} if is_train else clips_of_train)
        if is_train:
            train |= {_identity(question, measured): question for question in split.result.questions}
            clips_of_train |= {measured[clip].digest: clip.path for clip in _clips(split) if measured[clip].digest}
    return Report(
        tuple(_summary(split, measured) for split in read),
        tuple(findings),
        tuple(note for split in read for note in split.result.notes),
    )


def _files(question: Question) -> tuple[Media, ...]:
    return question.audio if question.video is None else (*question.audio, question.video)


def _clips(split: _Read) -> dict[AudioRef, Question]:
    """The different clips of a split, with the first question about each."""
    found: dict[AudioRef, Question] = {}
    for question in split.result.questions:
        for clip in question.audio:
            found.setdefault(clip, question)
    return found


def _kind(row: SkippedRow) -> str:
    return row.kind if row.kind in ERRORS else "bad row"


def _of_files(split: _Read, measured: Mapping[Media, Measured]) -> Iterator[Finding]:
    """What is wrong with a file, once for each, with the first row that names it."""
    told: set[Media] = set()
    for question in split.result.questions:
        for file in _files(question):
            if measured[file].kind and file not in told:
                told.add(file)
                yield Finding(split.setting, measured[file].kind, question.source, measured[file].reason)


def _of_questions(
    split: _Read, measured: Mapping[Media, Measured], train: Mapping[object, Question]
) -> Iterator[Finding]:
    """Questions that are there twice, or are in the training data too."""
    seen: dict[object, Question] = {}
    for question in split.result.questions:
        identity = _identity(question, measured)
        first = seen.setdefault(identity, question)
        if first is not question:
            if folded(first.ground_truth) == folded(question.ground_truth):
                reason = f"the question, choices and clip of {first.source} again; remove one of them"
                yield Finding(split.setting, "repeated question", question.source, reason)
            else:
                answers = f"{shown(question.ground_truth)} here, {shown(first.ground_truth)} there"
                reason = f"the question, choices and clip of {first.source} with another answer ({answers})"
                yield Finding(split.setting, "two answers", question.source, reason)
        elif identity in train:
            reason = (
                f"the question, choices and clip of {train[identity].source}, which is trained on; remove one of them"
            )
            yield Finding(split.setting, "question of train", question.source, reason)


def _identity(question: Question, measured: Mapping[Media, Measured]) -> object:
    """Equal for questions that sound and read the same, whatever their ids, file names and order of choices."""
    clips = tuple(measured[clip].digest or clip.path for clip in question.audio)
    return folded(question.text), tuple(sorted(map(folded, question.choices))), clips


def _of_clips(split: _Read, measured: Mapping[Media, Measured], of_train: Mapping[str, str]) -> Iterator[Finding]:
    """Files that hold the same sound as another, here or in the training data."""
    seen: dict[str, str] = {}
    for clip, question in _clips(split).items():
        digest = measured[clip].digest
        if not digest:
            continue
        first = seen.setdefault(digest, clip.path)
        if first != clip.path:
            yield Finding(split.setting, "equal clips", question.source, f"{clip.path}: the same sound as {first}")
        elif digest in of_train:
            reason = f"{clip.path}: the same sound as {of_train[digest]} of {TRAIN}"
            yield Finding(split.setting, "clip of train", question.source, reason)


def _summary(split: _Read, measured: Mapping[Media, Measured]) -> SplitSummary:
    result = split.result
    seconds = [measured[clip].seconds for clip in _clips(split)]
    return SplitSummary(
        split=split.setting,
        format=split.dataset.format,
        num_rows=len(result.questions) + len(result.skipped),
        num_questions=len(result.questions),
        num_clips=len(seconds),
        audio_s=sum(seconds),
        longest_s=max(seconds, default=0.0),
        num_videos=len({question.video for question in result.questions if question.video}),
    )
