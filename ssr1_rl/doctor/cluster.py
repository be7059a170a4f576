"""Runs `gather` on every node of the cluster."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ssr1_rl.doctor.facts import NodeFacts, gather

TIMEOUT_S = 120.0


class NodeSilent(RuntimeError):
    """A node did not answer."""


def facts_of_nodes(paths: Sequence[str], ports: Sequence[int]) -> list[NodeFacts]:
    """The facts of every living node, this one first.

    Raises:
        NodeSilent: a node did not answer within `TIMEOUT_S`.
    """
    here = ray.get_runtime_context().get_node_id()
    alive = sorted((n["NodeID"] for n in ray.nodes() if n["Alive"]), key=lambda node: node != here)
    task: Any = ray.remote(num_cpus=0)(gather)  # Ray types no task made of a function by `ray.remote(...)`
    calls = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths, ports): node
        for node in alive
    }
    _, silent = ray.wait(list(calls), num_returns=len(calls), timeout=TIMEOUT_S)
    if silent:
        raise NodeSilent(f"node {calls[silent[0]]} did not answer within {TIMEOUT_S:g} s; `ray status` shows its state")
    return ray.get(list(calls))


def object_store_bytes() -> int:
    """Size of the object store of this node, in which the controller keeps clips."""
    here = ray.get_runtime_context().get_node_id()
    return next(int(n["Resources"].get("object_store_memory", 0)) for n in ray.nodes() if n["NodeID"] == here)
