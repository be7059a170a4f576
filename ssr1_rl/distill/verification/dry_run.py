"""`ssr1-rl distill verify --dry-run` and `calibrate --dry-run`: what would be asked. Starts nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ssr1_rl.config.environment import without_values
from ssr1_rl.config.model_path import check_model_folder, is_here
from ssr1_rl.config.schema import Config
from ssr1_rl.data.skipped import UNUSABLE
from ssr1_rl.distill.asked import with_setup
from ssr1_rl.distill.calibrate import read_labelled
from ssr1_rl.distill.verification.claim_questions import Asked, ClaimQuestion, ToJudge, questions_about
from ssr1_rl.distill.verifier import read_chains_to_verify
from ssr1_rl.errors import UserError
from ssr1_rl.telemetry.progress import summary_table

NUM_CLAIMS_SHOWN = 8
MAX_TRIES = 20
"""Questions that are tried until the clip of one can be used."""


def print_verify_dry_run(config: Config) -> None:
    """Reads the chains, shows the claims of one and the prompt about one of them.

    Raises:
        UserError: the stage would refuse these settings or this data too.
    """
    chains = read_chains_to_verify(config)
    figures = {
        "chains in the table": len(chains.table),
        "kept by the teacher's stage": len(chains.to_judge) + len(chains.lost),
        "of these, without their question": len(chains.lost),
    }
    _print(config, chains.to_judge, figures, f"{config.run.dir}/verified.parquet")


def print_calibrate_dry_run(config: Config) -> None:
    """The same for the labelled chains."""
    labelled = read_labelled(config)
    figures = {"labelled chains": len(labelled), "of these, grounded": sum(one.grounded for one in labelled)}
    _print(config, [one.chain for one in labelled], figures, f"{config.run.dir}/calibration.json")


def _print(config: Config, chains: Sequence[ToJudge], figures: dict[str, int], output: str) -> None:
    verifier = config.verifier
    rows: dict[str, object] = {"method": verifier.method, **figures}
    asked = None
    if verifier.method in ("claims", "chain"):
        asked = questions_about(chains, verifier)
        rows |= {
            "not to be judged": len(asked.unjudged),
            "claims of all chains": sum(map(len, asked.claims.values())),
            "requests": len(asked.rows),
            "model": verifier.model,
        }
    summary_table("verifier", [{"figure": name, "value": value} for name, value in (rows | {"output": output}).items()])
    if asked:
        _print_claims(chains, asked)
        if is_here(verifier.model):
            with_setup(config, lambda: check_model_folder(verifier.model, "verifier.model"))
            _print_prompt(config, asked)
        else:
            _say("left out: a prompt, because the model is not downloaded yet; a run checks it")
    _say("nothing was started")


def _print_claims(chains: Sequence[ToJudge], asked: Asked) -> None:
    first = next((chain for chain in chains if chain.key not in asked.unjudged), None)
    if first is None:
        return
    claims = asked.claims[first.key]
    _say(f"claims of chain {first.key}:")
    for claim in claims[:NUM_CLAIMS_SHOWN]:
        _say(f"  {claim}")
    if len(claims) > NUM_CLAIMS_SHOWN:
        _say(f"  … and {len(claims) - NUM_CLAIMS_SHOWN} more")


def _print_prompt(config: Config, asked: Asked) -> None:
    ask = ClaimQuestion(config)
    letters = ask.letters()
    errors: list[str] = []
    for row in asked.rows[:: max(1, len(asked.rows) // MAX_TRIES)]:
        try:
            prompt = ask.example(row)
        except UNUSABLE as error:
            errors.append(str(error))
            continue
        for error in errors:
            _say(f"note: cannot be used: {error}")
        _say(f"one prompt, answered by one of the tokens {letters}:")
        _say(without_values(prompt, [config.verifier.system_prompt, config.verifier.instruction]))
        return
    if errors:
        raise UserError(f"none of {len(errors)} questions that were tried can be used; the first: {errors[0]}")


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
