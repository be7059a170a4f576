"""The stage `ssr1-rl distill verify`: RUN/chains.parquet -> RUN/verified.parquet.

    chains that the teacher's stage kept
         -> claims                      `claims.py`
         -> questions about each clip   `claim_questions.py`; or the user's verifier, `custom_verifier.py`
         -> answers in RUN/verify/      `ssr1_rl.inference`; a start asks only for what is missing
         -> scores, by `verifier.rule`  `verdicts.py`
         -> RUN/verified.parquet        the rows of chains.parquet, each with its verdict
            RUN/verify_summary.json

With another rule or threshold the stage asks nothing anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.verifier import VerifierConfig
from ssr1_rl.config.written import config_to_yaml
from ssr1_rl.data.splits import Split, read_split
from ssr1_rl.distill.asked import with_setup
from ssr1_rl.distill.chain_rows import chain_key
from ssr1_rl.distill.chains import CHAINS, Chain, read_chains
from ssr1_rl.distill.verification.claim_questions import ToJudge
from ssr1_rl.distill.verification.judge import judge
from ssr1_rl.distill.verification.summary import Summary, print_summary, summarise
from ssr1_rl.distill.verification.verdicts import Judgement
from ssr1_rl.distill.verification.verified import VERIFIED, Verified, write_verified
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.files import write_json, write_text
from ssr1_rl.inference.request import Backend
from ssr1_rl.store.folder import claim

ANSWERS = "verify"
"""Folder of the answers in `run.dir`."""
SUMMARY = "verify_summary.json"
TITLE = "verifier listens"


def verify(config: Config, console: Console | None = None, backend: Backend | None = None) -> Summary:
    """Runs the stage, or resumes it.

    Args:
        config: the settings.
        console: where progress and figures are shown.
        backend: what answers; engines in the cluster, or the user's verifier, if it is not given.

    Raises:
        Explained: something is wrong; the message says how to fix it.
        Interrupted: SIGINT or SIGTERM; the answers so far are kept.
    """
    run_dir, verifier = Path(config.run.dir), config.verifier
    with claim(run_dir):
        chains = read_chains_to_verify(config)
        folder = run_dir / ANSWERS
        folder.mkdir(exist_ok=True)
        write_text(folder / "config.yaml", config_to_yaml(config), mode=0o600)
        judged = judge(config, chains.to_judge, folder, title=TITLE, console=console, backend=backend)
        judgements = {**judged.judgements, **chains.lost}
        verified = [verdict_on(chain, judgements, verifier) for chain in chains.table]
        write_verified(run_dir / VERIFIED, verified)
        summary = summarise(verified, chains.split.questions, judged.num_asked)
        write_json(run_dir / SUMMARY, summary.as_json())
    print_summary(f"{config.run.name}: verified chains, in {run_dir / VERIFIED}", summary, console)
    if not summary.of_all.num_validated:
        raise UserError(
            f"no chain is validated, so there is nothing to learn from; the column `verdict` of {run_dir / VERIFIED} "
            "says why for each. Lower verifier.threshold (`ssr1-rl distill calibrate` finds one), or change "
            "verifier.rule"
        )
    return summary


@dataclass(frozen=True)
class Chains:
    """What the stage has to judge."""

    table: Sequence[Chain]  # every row of the table
    to_judge: Sequence[ToJudge]
    lost: Mapping[str, Judgement]  # kept chains whose question the data does not have, by their key
    split: Split


def read_chains_to_verify(config: Config) -> Chains:
    """Reads the table of chains and their questions.

    Raises:
        UserError: a file cannot be read, no chain is kept, or too many of their questions are not in the data.
    """
    path = chains_path(config)
    table = read_chains(path)
    split = with_setup(config, lambda: read_split(config.data.train, "data.train", config.data.max_skipped_share))
    twice = [key for key, count in Counter(map(key_of, table)).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {len(twice):,} chains occur twice, {twice[0]} for example; number them anew")
    kept = [chain for chain in table if chain.kept]
    if not kept:
        raise UserError(f"{path}: none of its {len(table):,} chains is kept, so there is nothing to verify")
    questions = {question.id: question for question in split.questions}
    lost = [chain for chain in kept if chain.question_id not in questions]
    share = config.verifier.max_failed_share
    if len(lost) > share * len(kept):
        raise UserError(
            f"{path}: {len(lost):,} of {len(kept):,} kept chains answer questions that data.train "
            f"({split.dataset.path}) does not have, {lost[0].question_id!r} for example, more than "
            f"verifier.max_failed_share={share:g}; give the data that the chains were made of"
        )
    to_judge = [ToJudge(key_of(c), questions[c.question_id], c.thoughts) for c in kept if c.question_id in questions]
    reason = Judgement(error="data.train has no such question", is_failed=True)
    return Chains(table, to_judge, {key_of(chain): reason for chain in lost}, split)


def chains_path(config: Config) -> Path:
    """The table of chains that the settings name.

    Raises:
        MissingFile: they name one that is not there.
    """
    if not config.verifier.chains:
        return Path(config.run.dir) / CHAINS
    path = Path(config.verifier.chains)
    if not path.is_file():
        raise MissingFile(
            f"verifier.chains {path} is not a file (looked for in {Path.cwd()}); give the chains.parquet of `ssr1-rl "
            "distill generate`"
        )
    return path


def key_of(chain: Chain) -> str:
    """Names one chain of a table."""
    return chain_key(chain.question_id, chain.chain)


def verdict_on(chain: Chain, judgements: Mapping[str, Judgement], verifier: VerifierConfig) -> Verified:
    """What becomes of a chain by the settings' rule and threshold."""
    if not chain.kept:
        return Verified(chain, Judgement(), None, False, f"not kept: {chain.reason}")
    judgement = judgements[key_of(chain)]
    if verifier.method == "none" and not judgement.error:
        return Verified(chain, judgement, None, True, "not checked")
    score = judgement.score(verifier.rule)
    validated = score is not None and score >= verifier.threshold
    return Verified(chain, judgement, score, validated, judgement.reason(verifier.rule, verifier.threshold))
