"""`ssr1-rl distill calibrate`: how far a verifier can be trusted, and which threshold gives the wished precision.

Judges a sample of chains that people have labelled, as `verify` would, for every rule over their verdicts:

RUN/calibration.json     all figures, with the whole curve of each rule
RUN/calibration.csv      the curves as a table
RUN/calibration.png      the curves as a plot, if matplotlib is installed
RUN/calibrate/           the answers; a start asks only for what is missing

The threshold is chosen on the sample whose precision it shows, so that precision is a little too good; the interval
beside it tells how little a small sample says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import config_to_yaml
from ssr1_rl.data.splits import read_split
from ssr1_rl.distill.asked import with_setup
from ssr1_rl.distill.chains import Chain, read_chains
from ssr1_rl.distill.verification.calibration import Calibration, ClaimLabels, RuleResult
from ssr1_rl.distill.verification.calibration_files import print_calibration, write_csv, write_plot
from ssr1_rl.distill.verification.curve import average_precision, best_f1, curve, precision_recall, threshold_for
from ssr1_rl.distill.verification.judge import judge
from ssr1_rl.distill.verification.labels import Labelled, read_labels
from ssr1_rl.distill.verification.verdicts import OUTCOMES, RULES, Judgement, Rule
from ssr1_rl.distill.verifier import chains_path
from ssr1_rl.errors import RunError
from ssr1_rl.files import write_json, write_text
from ssr1_rl.inference.request import Backend
from ssr1_rl.store.folder import claim

ANSWERS = "calibrate"
"""Folder of the answers in `run.dir`."""
RESULT = "calibration.json"


def calibrate(config: Config, console: Console | None = None, backend: Backend | None = None) -> Calibration:
    """Judges the labelled chains and writes the figures.

    Args:
        config: the settings.
        console: where progress and figures are shown.
        backend: what answers; engines in the cluster, or the user's verifier, if it is not given.

    Raises:
        Explained: something is wrong; the message says how to fix it.
        Interrupted: SIGINT or SIGTERM; the answers so far are kept.
    """
    run_dir = Path(config.run.dir)
    with claim(run_dir):
        labelled = read_labelled(config)
        folder = run_dir / ANSWERS
        folder.mkdir(exist_ok=True)
        write_text(folder / "config.yaml", config_to_yaml(config), mode=0o600)
        chains = [one.chain for one in labelled]
        judged = judge(config, chains, folder, title="verifier listens", console=console, backend=backend)
        result = calibration(labelled, judged.judgements, config)
        write_json(run_dir / RESULT, result.as_json())
        write_csv(run_dir / "calibration.csv", result)
        note = write_plot(run_dir / "calibration.png", result)
    print_calibration(f"{config.run.name}: calibration of the verifier, in {run_dir / RESULT}", result, console)
    if note:
        (console or Console()).print(note, markup=False, highlight=False, soft_wrap=True)
    return result


def read_labelled(config: Config) -> list[Labelled]:
    """The labelled chains with their questions.

    Raises:
        UserError: a file cannot be read, or a label is wrong.
    """
    path = chains_path(config)
    chains: Sequence[Chain] = read_chains(path) if config.verifier.chains or path.exists() else ()
    split = with_setup(config, lambda: read_split(config.data.train, "data.train", config.data.max_skipped_share))
    return with_setup(config, lambda: read_labels(Path(config.verifier.labels), split.questions, chains))


def calibration(labelled: Sequence[Labelled], judgements: Mapping[str, Judgement], config: Config) -> Calibration:
    """The figures of judged chains.

    Raises:
        RunError: no labelled chain could be judged.
    """
    verifier = config.verifier
    of_each = [judgements[one.chain.key] for one in labelled]
    grounded = [one.grounded for one in labelled]
    unjudged = Counter(judgement.error for judgement in of_each if judgement.error)
    if len(labelled) == unjudged.total():
        [(reason, count)] = unjudged.most_common(1)
        raise RunError(f"none of the {len(labelled)} labelled chains could be judged; {count} of them: {reason}")
    rules: Sequence[Rule] = RULES if any(judgement.verdicts for judgement in of_each) else (verifier.rule,)
    return Calibration(
        target_precision=verifier.target_precision,
        num_labelled=len(labelled),
        num_grounded=sum(grounded),
        unjudged=dict(unjudged),
        rule=verifier.rule,
        threshold=verifier.threshold,
        rules={rule: _of_rule(rule, of_each, grounded, config) for rule in rules},
        claims=_claim_labels(labelled, of_each),
    )


def _of_rule(rule: Rule, judgements: Sequence[Judgement], grounded: Sequence[bool], config: Config) -> RuleResult:
    scores = [judgement.score(rule) for judgement in judgements]
    points = curve(scores, grounded)
    threshold = config.verifier.threshold
    kept = [score is not None and score >= threshold for score in scores]
    return RuleResult(
        points=points,
        average_precision=average_precision(points),
        at_target=threshold_for(points, config.verifier.target_precision),
        best_f1=best_f1(points),
        at_setting=precision_recall(kept, grounded),
    )


def _claim_labels(labelled: Sequence[Labelled], judgements: Sequence[Judgement]) -> ClaimLabels:
    confusion: dict[str, dict[str, int]] = {label: dict.fromkeys(OUTCOMES, 0) for label in OUTCOMES}
    num_labelled = 0
    for one, judgement in zip(labelled, judgements, strict=True):
        num_labelled += len(one.claims)
        for verdict in judgement.verdicts:
            if verdict.text in one.claims:
                confusion[one.claims[verdict.text]][verdict.outcome] += 1
    return ClaimLabels(num_labelled, confusion)
