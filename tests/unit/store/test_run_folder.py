"""A run's folder: one process at a time, and its settings as a file."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.errors import UserError
from ssr1_rl.files import SetAside
from ssr1_rl.store.folder import RunFolderInUse, changed_settings, claim, write_config


@pytest.fixture
def config(tmp_path):
    config = Config(run=RunConfig(name="x", dir=str(tmp_path / "run"), device="cpu"))
    config.model.path, config.data.train.path = "m", "q.json"
    (tmp_path / "run").mkdir()
    return config


@pytest.fixture
def aside(tmp_path):
    return SetAside(tmp_path / "run", 0)


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


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_does_not_count_as_another_process(tmp_path, monkeypatch, code):
    def no_locks(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    entered = []
    with claim(tmp_path / "run"):
        entered.append(True)
    assert entered == [True]


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


def test_a_claim_changes_no_file_of_the_folder(tmp_path):
    (tmp_path / ".lock").write_text("somebody else's")
    with claim(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "somebody else's"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match=r"run is a file.*give another path"), claim(tmp_path / "run"):
        pass


def test_changed_settings_are_listed_and_nothing_is_written(config, aside, tmp_path):
    assert changed_settings(config) == []
    assert os.listdir(tmp_path / "run") == []
    write_config(config, aside)
    assert changed_settings(config) == []
    config.grpo.group_size = 16
    config.rewards[0].weight = 2.0
    config.rollout.engine_args = {"max_num_batched_tokens": 4096}
    changes = [
        "changed setting: grpo.group_size: 8 before, 16 now",
        "changed setting: rewards[0].weight: 1.0 before, 2.0 now",
        "changed setting: rollout.engine_args.max_num_batched_tokens: None before, 4096 now",
    ]
    assert changed_settings(config) == changes
    assert changed_settings(config) == changes, "asking writes nothing"
    write_config(config, aside)
    assert changed_settings(config) == []


def test_a_kill_while_the_settings_are_written_leaves_the_old_ones(config, aside, tmp_path, monkeypatch):
    write_config(config, aside)
    before = (tmp_path / "run" / "config.yaml").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    config.model.path = "another"
    with pytest.raises(KeyboardInterrupt):
        write_config(config, aside)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("content", [b"run: {name: x", b"\xff\xfe\x00", b"- a\n- b\n", b"", b"\x00"])
def test_settings_that_cannot_be_read_are_named_and_set_aside(config, aside, tmp_path, content):
    path = tmp_path / "run" / "config.yaml"
    path.write_bytes(content)
    (line,) = changed_settings(config)
    assert str(path) in line
    assert "holds no settings" in line
    write_config(config, aside)
    assert aside.folder is not None
    assert (aside.folder / "config.yaml").read_bytes() == content
    assert changed_settings(config) == []


def test_only_the_owner_reads_the_settings(config, aside, tmp_path):
    write_config(config, aside)
    assert stat.S_IMODE((tmp_path / "run" / "config.yaml").stat().st_mode) == 0o600
