"""Shows what an evaluation would ask which models, without starting anything."""

from rich.console import Console

from ssr1_rl.checks.dry_run import split_row
from ssr1_rl.checks.eval_preflight import EvalPreflight
from ssr1_rl.config.environment import without_values
from ssr1_rl.config.schema import SECTIONS, Config
from ssr1_rl.config.written import shown_settings
from ssr1_rl.config.yaml_text import write
from ssr1_rl.evaluation.rules import rules_of
from ssr1_rl.telemetry.progress import summary_table


def print_eval_dry_run(config: Config, checked: EvalPreflight) -> None:
    """Prints the settings, the splits with their rules, the requests to each model, and one prompt of each model."""
    console, evaluation = Console(), config.evaluation
    settings = {name: values for name, values in shown_settings(config).items() if name in SECTIONS["eval"]}
    console.print(write(settings), markup=False, highlight=False)
    rows = [
        split_row(split)
        | {"scored by": ", ".join(rule.name for rule in rules_of(split.dataset, evaluation.require_tags))}
        for split in checked.splits.values()
    ]
    summary_table("splits", rows)
    num_questions = sum(len(split.questions) for split in checked.splits.values())
    engines = evaluation.engines
    each = f"{engines.tensor_parallel_size} GPU" if config.run.device == "cuda" else f"{engines.num_cpus:g} CPU"
    summary_table(
        "models",
        [
            {
                "model": name,
                "path": repr(path).strip("'"),
                "requests": num_questions * (1 + evaluation.num_samples),
                "engines": f"{engines.num_engines} of {each}",
            }
            for name, path in evaluation.models.items()
        ],
    )
    for line in checked.notes:
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    for name, path in evaluation.models.items():
        if name not in checked.examples:
            print(f"left out: prompts of {name}, because {path} is not downloaded yet")
            continue
        example = checked.examples[name][0]
        print(f"one prompt of {name} ({example}):")
        prompt = without_values(example.prompt, [config.data.system_prompt, config.data.instruction])
        console.print(prompt, markup=False, highlight=False, soft_wrap=True)
    print("nothing was started")
