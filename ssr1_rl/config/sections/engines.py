"""Models that answer rows in batches: vLLM engines that Ray Data starts, or a server of the user's."""

from dataclasses import dataclass, field

from ssr1_rl.config.setting import setting


@dataclass
class EnginesConfig:
    """vLLM engines of one model, which Ray Data starts in the cluster."""

    num_engines: int = setting(1, ge=1)
    """Engines. Rows are shared among them."""
    tensor_parallel_size: int = setting(1, ge=1)
    """GPUs per engine."""
    num_cpus: float = setting(1.0, gt=0)
    """CPU cores that Ray reserves per engine."""
    num_threads: int = setting(0, ge=0)
    """Compute threads of an engine on the CPU. 0: one per reserved core."""
    batch_size: int = setting(64, ge=1)
    """Requests that are handed to an engine at a time, and answers that are written at a time."""
    tasks_per_engine: int = setting(2, ge=1)
    """Most tasks per engine that decode clips and frames and build prompts at the same time. Each is a process of about
    0.7 GB, which takes some seconds to start."""
    max_num_seqs: int = setting(256, ge=1)
    """Most sequences that an engine generates at the same time."""
    gpu_memory_utilization: float = setting(0.9, gt=0, le=1)
    """Share of a GPU's memory that an engine may take."""
    kv_cache_gib: int = setting(1, ge=1)
    """Key-value cache of an engine on the CPU, in GiB."""
    engine_args: dict[str, object] = field(default_factory=dict)
    """Further vLLM engine arguments, passed to vLLM unchanged."""


@dataclass
class EndpointConfig:
    """An OpenAI-compatible server that answers instead of engines of the cluster."""

    url: str = ""
    """Base URL, such as https://host/v1. Empty: engines of the cluster answer."""
    api_key_env: str = ""
    """Name of the environment variable with the key. Empty: no key is sent. The key is never written anywhere."""
    max_concurrency: int = setting(32, ge=1)
    """Most requests in flight."""
    requests_per_minute: float = setting(0.0, ge=0)
    """Largest rate of requests, retries included. 0: no limit."""
    timeout_s: float = setting(120.0, gt=0)
    """Longest wait for one answer, in seconds."""
    max_retries: int = setting(5, ge=0)
    """Retries of a request after a time-out, a refused connection, an unreadable answer, or a status of 408, 429 or
    5xx; with exponential backoff, or after what the server's Retry-After says."""
    max_requests: int = setting(0, ge=0)
    """Requests after which the stage stops, retries and earlier starts included. 0: no limit."""
    max_tokens: int = setting(0, ge=0)
    """Tokens of prompts and responses after which the stage stops, as the server counts them. A request that it never
    answered, such as one that timed out, counts with the most that it may have taken. 0: no limit."""
    request_fields: dict[str, object] = field(default_factory=dict)
    """Further fields of each request, passed to the server unchanged; null leaves a field out, as in
    {max_tokens: null, max_completion_tokens: 512}."""
