"""Answers splits with several models, one after the other, and compares them.

RUN/results.json, table.md, table.csv     the figures; written again after each model
RUN/MODEL/answers/                        what the engines answered; a start asks only for what is missing
RUN/MODEL/failed.jsonl                    requests without an answer, and why
RUN/MODEL/SPLIT/answers.parquet           every response with what each rule reads in it
RUN/MODEL/SPLIT/mmau.json                 of a split in MMAU's format: what its official script takes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ssr1_rl.config.environment import as_written
from ssr1_rl.config.schema import Config
from ssr1_rl.data.splits import Split
from ssr1_rl.evaluation.answer_files import write_mmau, writing_answers
from ssr1_rl.evaluation.ask import GREEDY_SAMPLE, AskQuestion, key_of, rows_of
from ssr1_rl.evaluation.compare import compare
from ssr1_rl.evaluation.depends_on import fingerprint, prompt_settings
from ssr1_rl.evaluation.results import ModelOnSplit, Results
from ssr1_rl.evaluation.rules import MmauRule, Rule, rules_of
from ssr1_rl.evaluation.score import Judged, Response, figures, judge
from ssr1_rl.evaluation.statistics import Bootstrap
from ssr1_rl.evaluation.summary import KIND
from ssr1_rl.evaluation.tables import as_csv, as_markdown
from ssr1_rl.files import write_json, write_text
from ssr1_rl.inference.answers import Answers, answer_all
from ssr1_rl.inference.engines import VllmBackend
from ssr1_rl.inference.request import Answer, Backend
from ssr1_rl.types import Completion, Question

RESULTS = "results.json"
BackendOf = Callable[[str], Backend]
"""Makes what answers for a model, by its folder or hub name."""


def evaluate_models(
    models: Mapping[str, str],
    splits: Mapping[str, Split],
    config: Config,
    run_dir: Path,
    note: Callable[[str], None] = print,
    backend_of: BackendOf | None = None,
) -> Results:
    """Answers every split with every model, scores the answers, and writes the files that this module lists.

    Ray must be connected. The caller holds the folder's lock. Answers that an earlier call left in `run_dir` are used
    again if the model, its prompts and the sampling are the same.

    Args:
        models: folder or hub name of each model, by the name that the tables show and a folder of `run_dir` gets.
        splits: the questions by the name of their split.
        config: only `run` (device, seed), `data` (prompts) and `evaluation` are read.
        run_dir: where answers and results are kept.
        note: called with each sentence for the user.
        backend_of: what answers; vLLM engines in the cluster if it is not given.

    Raises:
        UserError: a model or a split cannot be used.
        RunError: an engine cannot start, or more than evaluation.max_failed_share of the requests of a model failed.
        Interrupted: a signal stopped it; the answers so far are kept.
    """
    scorer = _Scorer(models, splits, config, note)
    make = backend_of or _vllm(splits, config)
    for name, path in models.items():
        answers = _answers(name, path, splits, config, run_dir, make)
        scorer.add(name, answers, run_dir / name)
        _write(scorer.results(), config, run_dir)
    return scorer.results()


def _answers(
    name: str, path: str, splits: Mapping[str, Split], config: Config, run_dir: Path, make: BackendOf
) -> Answers:
    """The model's answers to every split, in one pass, so that its engines start once."""
    rows = [
        row
        for split_name, split in splits.items()
        for row in rows_of(split_name, split.questions, config.evaluation, config.run.seed)
    ]
    return answer_all(
        run_dir / name,
        rows,
        AskQuestion(path, config.data, config.evaluation.max_response_tokens),
        make(path),
        title=f"{name} answers",
        max_failed_share=config.evaluation.max_failed_share,
        fingerprint=fingerprint(path, config),
    )


class _Scorer:
    """Scores each model as its answers are complete."""

    def __init__(
        self, models: Mapping[str, str], splits: Mapping[str, Split], config: Config, note: Callable[[str], None]
    ) -> None:
        evaluation = config.evaluation
        self._models, self._splits, self._config, self._note = models, splits, config, note
        self._bootstrap = Bootstrap(evaluation.num_resamples, evaluation.confidence, config.run.seed)
        self._rules = {name: rules_of(split.dataset, evaluation.require_tags) for name, split in splits.items()}
        self._figures: dict[str, dict[str, ModelOnSplit]] = {}
        self._is_right: dict[str, dict[str, list[bool]]] = {name: {} for name in splits}

    def add(self, name: str, answers: Answers, folder: Path) -> None:
        """Scores a model's answers, and writes the files of each split."""
        found: dict[str, ModelOnSplit] = {}
        for split_name, split in self._splits.items():
            judged = self._judge(split_name, split, answers, folder / split_name)
            rules, columns = [rule.name for rule in self._rules[split_name]], [KIND, *self._config.evaluation.group_by]
            found[split_name] = figures(judged, rules, columns, self._bootstrap, len(split.skipped))
            self._is_right[split_name][name] = [one.greedy[rules[0]].is_right for one in judged]
            self._say_what_failed(name, split_name, found[split_name])
        self._figures[name] = found

    def results(self) -> Results:
        """The figures of the models scored so far, and their comparisons."""
        comparisons = tuple(
            pair
            for split, is_right in self._is_right.items()
            for pair in compare(split, self._rules[split][0].name, is_right, self._bootstrap)
        )
        models = {name: self._models[name] for name in self._figures}
        return Results(models, tuple(self._splits), dict(self._figures), comparisons)

    def _judge(self, name: str, split: Split, answers: Answers, folder: Path) -> list[Judged]:
        """Reads the responses to a split, and writes them."""
        folder.mkdir(parents=True, exist_ok=True)
        rules = self._rules[name]
        judged: list[Judged] = []
        with writing_answers(folder / "answers.parquet", [rule.name for rule in rules]) as write:
            for question, responses in self._responses(name, split, answers):
                one = judge(question, responses[0], responses[1:], rules)
                judged.append(one)
                write(question, GREEDY_SAMPLE, responses[0], one.greedy)
                for index, response in enumerate(responses[1:]):
                    write(question, index, response, {rule: one.samples[rule][index] for rule in one.samples})
        if split.dataset.format == rules[0].name == MmauRule.name:
            self._write_mmau(split, judged, rules[0], folder / "mmau.json")
        return judged

    def _responses(self, name: str, split: Split, answers: Answers) -> Iterator[tuple[Question, list[Response]]]:
        """Each row's greedy response and its samples; those that the reader left out come last, without responses."""
        samples = range(GREEDY_SAMPLE, self._config.evaluation.num_samples)
        for question in split.questions:
            yield question, [_response(answers[key_of(name, question.id, sample)]) for sample in samples]
        for row in split.skipped:
            question = Question(f"row {row.row}", "", "", source=f"{row.source} row {row.row}")
            error = f"the row cannot be read: {row.field}: {row.reason}"
            yield question, [_response(Answer("", error=error)) for _ in samples]

    def _write_mmau(self, split: Split, judged: list[Judged], rule: Rule, path: Path) -> None:
        outputs = {one.question.id: one.greedy[rule.name].answer for one in judged}
        num_left_out = write_mmau(path, split, outputs)
        if num_left_out:
            self._note(f"{path}: {num_left_out} rows of {split.dataset.path} are no JSON objects, and are not in it")

    def _say_what_failed(self, name: str, split: str, found: ModelOnSplit) -> None:
        if found.num_failed or found.num_unreadable or found.num_failed_samples:
            self._note(
                f"{name} on {split}: of {found.num_questions:,} questions {found.num_unreadable:,} cannot be read and "
                f"{found.num_failed:,} failed ({found.num_failed_samples:,} of their samples); they count as wrong"
            )


def _vllm(splits: Mapping[str, Split], config: Config) -> BackendOf:
    """vLLM engines in the cluster, one model at a time."""
    evaluation = config.evaluation
    max_clips = max(len(question.audio) for split in splits.values() for question in split.questions)
    return lambda path: VllmBackend(
        path,
        evaluation.dtype,
        config.run.device,
        evaluation.engines,
        max_model_len=config.data.max_prompt_tokens + evaluation.max_response_tokens,
        max_clips=max_clips,
        seed=config.run.seed,
    )


def _response(answer: Answer) -> Response:
    completion = Completion((), (), answer.text, answer.finish_reason, prefill=answer.prefill)
    return Response(completion, answer.num_tokens, answer.error)


def _write(results: Results, config: Config, run_dir: Path) -> None:
    evaluation = as_written(dataclasses.asdict(config.evaluation))
    settings = {"seed": config.run.seed, "evaluation": evaluation, "prompts": as_written(prompt_settings(config.data))}
    models = {"models": as_written(dict(results.models))}
    write_json(run_dir / RESULTS, results.as_json() | models | {"settings": settings})
    write_text(run_dir / "table.md", as_markdown(results, config.evaluation.confidence))
    write_text(run_dir / "table.csv", as_csv(results))
