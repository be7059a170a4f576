"""Limits of nodes and of the Ray cluster that stop a run late, or slow it."""

from collections.abc import Mapping, Sequence

from ssr1_rl.config.schema import Config
from ssr1_rl.doctor.facts import DOCKER_S_DEFAULT, NodeFacts
from ssr1_rl.doctor.finding import Finding, error, ok, warning

MIN_OPEN_FILES = 8192
"""A node of 8 engines and 8 ranks holds some thousand sockets and files."""
MIN_SHARED_MEMORY = 2**30
"""NCCL takes some 10 MiB per pair of GPUs of a node, and Ray's object store lies here."""
GIB = 2**30


def check_node(node: NodeFacts) -> list[Finding]:
    """Shared memory, file descriptors, paths, ports and GPU links of one node."""
    return [*_shared_memory(node), *_open_files(node), *_paths(node), *_ports(node), *_links(node)]


def _shared_memory(node: NodeFacts) -> list[Finding]:
    size = node.shared_memory_bytes
    if size >= MIN_SHARED_MEMORY:
        return []
    docker = " (Docker's default)" if size == DOCKER_S_DEFAULT else ""
    make = error if len(node.gpus) > 1 else warning
    return [
        make(
            f"node {node.address}: /dev/shm has {size / 2**20:.0f} MiB{docker}",
            "NCCL between GPUs of a node fails there with a bus error, and Ray's object store moves to the slow disk",
            "start the container with --shm-size=16g (Kubernetes: an emptyDir of medium Memory at /dev/shm)",
        )
    ]


def _open_files(node: NodeFacts) -> list[Finding]:
    if node.open_files >= MIN_OPEN_FILES or node.open_files < 0:  # -1: no limit
        return []
    return [
        warning(
            f"node {node.address}: a process may open {node.open_files} files",
            "Ray's and NCCL's sockets may run out with 'Too many open files'",
            "ulimit -n 65536 before `ray start`",
        )
    ]


def _paths(node: NodeFacts) -> list[Finding]:
    return [
        error(
            f"node {node.address} does not see {path}",
            "actors that Ray places there fail when they open it",
            "put it on storage that all nodes share, or copy it to the same path on every node",
        )
        for path in node.missing_paths
    ]


def _ports(node: NodeFacts) -> list[Finding]:
    return [
        error(
            f"node {node.address}: port {port} is taken",
            "the learners or the weight sync could not listen there",
            "free it, or set learner.port and rollout.weight_transfer_port to 0 (any free port)",
        )
        for port in node.taken_ports
    ]


def _links(node: NodeFacts) -> list[Finding]:
    slow = [link for link in node.links if link in ("SYS", "NODE", "PHB")]
    if not slow:
        return []
    return [
        warning(
            f"node {node.address}: {len(slow)} of {len(node.links)} pairs of GPUs are linked through the CPUs "
            f"({', '.join(sorted(set(slow)))})",
            "tensor parallelism, ZeRO-3 and the weight sync move data over these links",
            "keep rollout.tensor_parallel_size within linked GPUs (`nvidia-smi topo -m`); prefer ZeRO-1 or 2 to 3",
        )
    ]


def check_object_store(store_bytes: int, config: Config) -> list[Finding]:
    """Whether the clips that are kept fit into the object store of the node that decodes them."""
    kept = config.data.audio_cache_mib * 2**20
    if kept <= 0.7 * store_bytes:
        return [ok(f"object store of {store_bytes / GIB:.1f} GiB holds data.audio_cache_mib of {kept / GIB:.1f} GiB")]
    return [
        warning(
            f"data.audio_cache_mib={config.data.audio_cache_mib} is {kept / GIB:.1f} GiB, and the object store of "
            f"this node has {store_bytes / GIB:.1f} GiB",
            "clips would be spilled to disk and read back",
            f"lower data.audio_cache_mib to {int(0.6 * store_bytes / 2**20)}, or raise ray start --object-store-memory",
        )
    ]


def check_authentication(environment: Mapping[str, str], num_nodes: int) -> list[Finding]:
    """Whether strangers could run code on the cluster."""
    if environment.get("RAY_AUTH_MODE") == "token":
        return [ok("the cluster asks for a token")]
    if num_nodes == 1 and not environment.get("RAY_ADDRESS"):
        return []
    return [
        warning(
            "the cluster asks for no token (RAY_AUTH_MODE is not 'token')",
            "whoever reaches its ports can run any program on every node",
            "export RAY_AUTH_MODE=token on all nodes before `ray start`, and run `ray get-auth-token --generate` once",
        )
    ]


def check_same_gpus(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Whether the GPUs of all nodes are of one kind."""
    kinds = sorted({gpu.name for node in nodes for gpu in node.gpus})
    if len(kinds) < 2:
        number = sum(len(node.gpus) for node in nodes)
        return [ok(f"{number} GPUs: {kinds[0]}")] if kinds else []
    return [
        warning(
            f"the cluster has GPUs of several kinds: {', '.join(kinds)}",
            "learner ranks wait for the slowest, and the smallest memory limits all",
            "start the run on nodes of one kind, for example with a Ray resource of their own",
        )
    ]
