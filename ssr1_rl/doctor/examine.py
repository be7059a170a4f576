"""All checks, topic by topic, in the order in which a run would meet what they look for."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssr1_rl.checks.memory import MemoryEstimate, estimate_memory
from ssr1_rl.checks.notes import notes
from ssr1_rl.checks.preflight import preflight
from ssr1_rl.cluster import check_fits, make_plan
from ssr1_rl.config.model_path import is_on_hub
from ssr1_rl.config.schema import Config
from ssr1_rl.connection import connected
from ssr1_rl.doctor.cluster import facts_of_nodes, object_store_bytes
from ssr1_rl.doctor.deep import tiny_step
from ssr1_rl.doctor.facts import NodeFacts
from ssr1_rl.doctor.finding import Finding, error, ok, warning
from ssr1_rl.doctor.machine import check_authentication, check_node, check_object_store, check_same_gpus
from ssr1_rl.doctor.memory import check_gpu_memory, check_host_memory, checkpoint_bytes, kv_bytes_per_token
from ssr1_rl.doctor.model import check_prompt, no_tokenizer
from ssr1_rl.doctor.storage import check_space, check_speed, existing_parent, measure
from ssr1_rl.doctor.versions import check_cuda, check_requirements, check_same_versions, installed_requirements
from ssr1_rl.errors import Explained
from ssr1_rl.run import run_grpo

ONE_STEP = "one step"
"""Topic of `--deep`."""


class Examination:
    """Collects findings by topic; `begin` is called as a topic begins, `end` with its findings.

    A check that itself breaks is an error among the findings, so that the others still run.
    """

    def __init__(self, begin: Callable[[str], None], end: Callable[[str, list[Finding]], None]) -> None:
        self.findings: dict[str, list[Finding]] = {}
        self._begin, self._end = begin, end

    @contextmanager
    def topic(self, name: str) -> Iterator[list[Finding]]:
        """Collects the findings of one topic; an exception becomes one of them."""
        self._begin(name)
        found = self.findings.setdefault(name, [])
        try:
            yield found
        except Exception as problem:
            is_explained = isinstance(problem, Explained)  # then the message says what to do
            what = str(problem) if is_explained else repr(problem)
            fix = (
                ""
                if is_explained
                else "the check itself failed: see the type of the error, and report it if it is ours"
            )
            found.append(error(what, f"the rest of {name} could not be checked", fix))
        self._end(name, found)

    def worst(self) -> str:
        """The worst level found."""
        levels = {finding.level for found in self.findings.values() for finding in found}
        return next((level for level in ("error", "warning") if level in levels), "ok")


def examine(
    config: Config | None, deep: bool, begin: Callable[[str], None], end: Callable[[str, list[Finding]], None]
) -> Examination:
    """Examines this environment and every node of the cluster; with `config`, also what that run needs.

    Args:
        deep: also make one tiny GRPO step with the real model.
        begin, end: called with the name of each topic as it begins, and with its findings as it ends.
    """
    done = Examination(begin, end)
    with done.topic("versions") as found:
        found += check_requirements(*installed_requirements())
    with connected():
        nodes: list[NodeFacts] = []
        with done.topic("nodes") as found:
            nodes += _gathered(config)
            found += _nodes(nodes)
        if config:
            with done.topic("cluster") as found:
                found += _cluster(config, nodes)
    if config:
        with done.topic("settings and data") as found:
            found += _settings(config)
        with done.topic("model") as found:
            found += _model(config)
        with done.topic("storage") as found:
            found += _storage(Path(config.run.dir), config, estimate_memory(config))
        if deep:
            with done.topic(ONE_STEP) as found:
                found += _one_step(config)
    return done


def _gathered(config: Config | None) -> list[NodeFacts]:
    paths = [config.model.path] if config and not is_on_hub(config.model.path) else []
    ports = [config.learner.port, config.rollout.weight_transfer_port] if config else []
    return facts_of_nodes([os.path.abspath(path) for path in paths], [port for port in ports if port])


def _nodes(nodes: list[NodeFacts]) -> list[Finding]:
    found = [*check_same_versions(nodes), *check_same_gpus(nodes), *check_authentication(os.environ, len(nodes))]
    for node in nodes:
        problems = [*check_cuda(node, _torch_cuda()), *check_node(node)]
        found += problems or [ok(f"node {node.address}: {_in_words(node)}")]
    return found


def _cluster(config: Config, nodes: list[NodeFacts]) -> list[Finding]:
    plan = make_plan(config)
    check_fits(plan)
    rows = ", ".join(f"{count} x {who} ({each})" for who, count, each in plan.rows())
    found = [ok(f"the cluster holds {rows}"), *check_object_store(object_store_bytes(), config)]
    estimate = estimate_memory(config)
    if not nodes:  # the topic before says why
        return found
    gpus = [gpu.memory_bytes for node in nodes for gpu in node.gpus]
    if config.run.device == "cuda" and not gpus:
        why = "the memory of learners and engines cannot be compared with the GPUs'"
        return [*found, warning("nvidia-smi shows no GPU on any node", why, "install the driver's nvidia-smi")]
    if config.run.device == "cpu":
        return [*found, check_host_memory(config, estimate, min(node.memory_bytes for node in nodes))]
    return [*found, *check_gpu_memory(config, estimate, _kv_bytes(config), min(gpus))]


def _settings(config: Config) -> list[Finding]:
    checked = preflight(config)
    return [
        ok("settings, data files, rewards and checkpoint pass the checks of a run"),
        *(warning(note, "", "") for note in [*checked.notes, *notes(config)]),  # each says what to do
    ]


def _model(config: Config) -> list[Finding]:
    try:
        return check_prompt(config)
    except (ValueError, OSError) as problem:
        return [no_tokenizer(config.model.path, problem)]


def _storage(folder: Path, config: Config, estimate: MemoryEstimate) -> list[Finding]:
    folder = existing_parent(folder)
    speed, free = measure(folder)
    size = checkpoint_bytes(config, estimate)
    num_kept = config.checkpoint.keep_last + config.checkpoint.keep_best + 1
    return [check_space(folder, free, size, num_kept), check_speed(folder, speed, size)]


def _one_step(config: Config) -> list[Finding]:
    parent = existing_parent(Path(config.run.dir))
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=parent) as folder:
        summary = run_grpo(tiny_step(config, Path(folder)))
    return [
        ok(
            f"one step of 2 responses a question: {summary['step_s']:.1f} s, log-probs of engines and learners differ "
            f"by {summary['logprob_abs_diff_mean']:.2g} in the mean"
        )
    ]


def _kv_bytes(config: Config) -> int:
    from ssr1_rl.trainer.model.families import read_config

    text = read_config(config.model.path).get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return kv_bytes_per_token(config, text.num_hidden_layers, text.num_key_value_heads, head_dim)


def _torch_cuda() -> str | None:
    import torch

    return torch.version.cuda


def _in_words(node: NodeFacts) -> str:
    gpus = f"{len(node.gpus)} x {node.gpus[0].name}, driver {node.gpus[0].driver}" if node.gpus else "no GPU"
    return (
        f"{gpus}, {node.memory_bytes / 2**30:.0f} GiB memory, /dev/shm {node.shared_memory_bytes / 2**30:.1f} GiB, "
        f"{node.open_files:,} open files"
    )
