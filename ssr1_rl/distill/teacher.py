"""The stage of the teacher: a vision-language model sees silent videos, and writes chains of thought about the sound.

    data.train -> questions with a video -> a row for each chain -> answers, as they come, in run.dir/generate/
               -> chains, judged by teacher.keep -> run.dir/chains.parquet and run.dir/generate_summary.json

The answers are kept, so the stage resumes; and with another rule or other forbidden words it only judges them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import config_to_yaml
from ssr1_rl.connection import connected
from ssr1_rl.distill.asked import example_of, questions_to_ask, write_left_out
from ssr1_rl.distill.chain_rows import ChainRequest, chain_key, fingerprint, rows_of
from ssr1_rl.distill.chains import CHAINS, Chain, write_chains
from ssr1_rl.distill.generation.keep import judged
from ssr1_rl.distill.generation.summary import Summary, print_summary, summarise
from ssr1_rl.errors import UserError
from ssr1_rl.files import write_json, write_text
from ssr1_rl.inference.answers import answer_all
from ssr1_rl.inference.endpoint import EndpointBackend
from ssr1_rl.inference.engines import VllmBackend
from ssr1_rl.inference.request import Answer, Backend
from ssr1_rl.store.folder import claim
from ssr1_rl.types import Question

ANSWERS = "generate"
"""Folder of the answers in `run.dir`."""
SUMMARY = "generate_summary.json"
TITLE = "teacher writes chains"


def generate(config: Config, console: Console | None = None) -> Summary:
    """Runs the stage, or resumes it.

    Raises:
        Explained: something is wrong; the message says how to fix it.
        Interrupted: SIGINT or SIGTERM; the answers so far are kept.
    """
    asked = questions_to_ask(config)
    example_of(asked.questions, config)
    run_dir = Path(config.run.dir)
    with claim(run_dir):
        folder = run_dir / ANSWERS
        folder.mkdir(exist_ok=True)
        write_text(folder / "config.yaml", config_to_yaml(config), mode=0o600)
        write_left_out(folder / "left_out.jsonl", asked.left_out)
        answers = _answers(config, asked.questions, folder, console)
        chains = judge(asked.questions, answers, config)
        write_chains(run_dir / CHAINS, chains)
        summary = summarise(asked.questions, chains, len(asked.left_out))
        write_json(run_dir / SUMMARY, summary)
    print_summary(f"{config.run.name}: chains of thought, in {run_dir / CHAINS}", summary, console)
    if not summary["num_kept"]:
        raise UserError(
            f"no chain is kept, so there is nothing to learn from; {run_dir / CHAINS} says why for each. Change "
            "teacher.instruction, teacher.keep or teacher.forbidden_words, or take a larger teacher"
        )
    return summary


def judge(questions: Sequence[Question], answers: Mapping[str, Answer], config: Config) -> list[Chain]:
    """Every chain of every question, with whether it is kept and why."""
    chains = range(config.teacher.num_chains)
    return [
        chain
        for question in questions
        for chain in judged(question, [answers[chain_key(question.id, i)] for i in chains], config.teacher)
    ]


def _answers(
    config: Config, questions: Sequence[Question], folder: Path, console: Console | None
) -> Mapping[str, Answer]:
    teacher = config.teacher
    with nullcontext() if teacher.endpoint.url else connected():
        return answer_all(
            folder,
            rows_of(questions, teacher.num_chains, config.run.seed),
            ChainRequest(teacher, config.data),
            _backend(config, folder),
            title=TITLE,
            max_failed_share=teacher.max_failed_share,
            fingerprint=fingerprint(teacher, config.data, config.run.seed),
            console=console,
        )


def _backend(config: Config, folder: Path) -> Backend:
    teacher = config.teacher
    if teacher.endpoint.url:
        return EndpointBackend(teacher.endpoint, teacher.model, folder)
    return VllmBackend(
        teacher.model,
        teacher.dtype,
        config.run.device,
        teacher.engines,
        max_model_len=teacher.max_prompt_tokens + teacher.max_response_tokens,
        max_images=teacher.max_frames,
        seed=config.run.seed,
    )
