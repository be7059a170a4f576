"""A run's folder: one process at a time, and the checkpoint from which the next one resumes."""

import json
import subprocess
import sys

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.store.checkpoints import CheckpointStore, DamagedCheckpoint
from ssr1_rl.store.folder import RunFolderInUse, check_resume, claim, find_resume, write_config


@pytest.fixture
def config(tmp_path):
    config = Config(run=RunConfig(name="x", dir=str(tmp_path / "run"), device="cpu"))
    config.model.path, config.data.train.path = "m", "q.json"
    return config


@pytest.fixture
async def three(config, tmp_path):
    """Checkpoints of steps 10, 20 and 30."""

    async def write(folder):
        (folder / "weights").write_text("w")

    store = CheckpointStore(tmp_path / "run", CheckpointConfig(keep_last=5))
    return [await store.save(step, {}, None, write) for step in (10, 20, 30)]


def damage(checkpoint):
    (checkpoint.learner / "weights").write_text("")


def test_a_folder_is_claimed_once(tmp_path):
    folder = tmp_path / "new" / "run"
    with claim(folder):
        with (
            pytest.raises(RunFolderInUse, match=r"another process is running in .*change run\.dir or run\.name"),
            claim(folder),
        ):
            pass
        with claim(tmp_path / "other"):
            pass
    with claim(folder):
        pass


def test_a_killed_process_releases_its_claim(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from ssr1_rl.store.folder import claim
with claim(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with claim(tmp_path):
        pass


def test_a_new_run_starts_from_the_start(config):
    assert find_resume(config.run) == (None, [])
    config.run.resume = "never"
    assert find_resume(config.run) == (None, [])


def test_auto_resumes_from_the_newest(config, three):
    assert find_resume(config.run) == (three[2], [])


def test_auto_falls_back_to_an_older_whole_one_and_says_so(config, three):
    damage(three[2])
    checkpoint, (note,) = find_resume(config.run)
    assert checkpoint == three[1]
    assert "step_000030 is damaged: learner/weights" in note
    assert "trying an older one" in note


def test_without_a_whole_one_the_run_stops(config, three):
    for checkpoint in three:
        damage(checkpoint)
    with pytest.raises(DamagedCheckpoint, match=r"none is left\. Remove .*/checkpoints to start from the beginning"):
        find_resume(config.run)


@pytest.mark.parametrize("content", ['{"step": 3', "{}", "\x00\x00"])
def test_auto_falls_back_from_a_damaged_manifest(config, three, content):
    (three[2].path / "manifest.json").write_text(content)
    checkpoint, notes = find_resume(config.run)
    assert checkpoint == three[1]
    assert len(notes) == 1


def test_never_refuses_a_folder_with_checkpoints(config, three):
    config.run.resume = "never"
    with pytest.raises(ConfigError, match=r"run\.resume=never, but .* holds a run.*run\.resume=auto"):
        find_resume(config.run)


def test_a_named_checkpoint_is_taken_and_checked(config, three):
    config.run.resume = str(three[0].path)
    assert find_resume(config.run) == (three[0], [])
    damage(three[0])
    with pytest.raises(DamagedCheckpoint, match="step_000010 is damaged"):
        find_resume(config.run)
    config.run.resume = str(three[0].path.parent)
    with pytest.raises(DamagedCheckpoint, match="holds no checkpoint"):
        find_resume(config.run)


def set_adapters(checkpoint, lora):
    (checkpoint.learner / "learner.json").write_text(json.dumps({"lora": lora}))


@pytest.mark.parametrize("resume", ["auto", "named"])
@pytest.mark.parametrize(
    ("before", "rank", "alpha", "message"),
    [
        ({"rank": 8, "alpha": 32.0}, 16, 32.0, r"set model\.lora\.rank=8 model\.lora\.alpha=32, or another run\.dir"),
        ({"rank": 8, "alpha": 16.0}, 8, 32.0, r"set model\.lora\.rank=8 model\.lora\.alpha=16"),
        ({"rank": 8, "alpha": 16.0}, 0, 32.0, r"but this run has off"),
        (None, 8, 32.0, r"written with model\.lora off.*set model\.lora\.rank=0"),
    ],
)
def test_other_adapters_than_the_checkpoints_are_refused_early(config, three, resume, before, rank, alpha, message):
    set_adapters(three[2], before)
    config.run.resume = str(three[2].path) if resume == "named" else "auto"
    config.model.lora.rank, config.model.lora.alpha = rank, alpha
    with pytest.raises(ConfigError, match=message):
        check_resume(config.run, config.model.lora)
    set_adapters(three[2], {"rank": rank, "alpha": alpha} if rank else None)
    check_resume(config.run, config.model.lora)


def test_what_a_run_cannot_resume_from_is_refused_early(config, three):
    check_resume(config.run, config.model.lora)  # learner.json is missing: find_resume looks for an older checkpoint
    config.run.resume = "runs/nowhere"
    with pytest.raises(DamagedCheckpoint, match=r"run\.resume=runs/nowhere: .*holds no checkpoint"):
        check_resume(config.run, config.model.lora)
    config.run.resume = "never"
    with pytest.raises(ConfigError, match=r"run\.resume=never, but .* holds a run"):
        check_resume(config.run, config.model.lora)


def test_changed_settings_are_listed(config, tmp_path):
    (tmp_path / "run").mkdir()
    assert write_config(config) == []
    assert write_config(config) == []
    config.grpo.group_size = 16
    config.rewards[0].weight = 2.0
    config.rollout.engine_args = {"max_num_batched_tokens": 4096}
    assert write_config(config) == [
        "grpo.group_size: 8 before, 16 now",
        "rewards[0].weight: 1.0 before, 2.0 now",
        "rollout.engine_args.max_num_batched_tokens: None before, 4096 now",
    ]
    assert write_config(config) == []
