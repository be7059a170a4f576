"""The doctor in a real cluster, with the small world's model."""

from dataclasses import replace
from pathlib import Path

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.doctor.examine import examine

pytestmark = pytest.mark.usefixtures("ray_cluster")


def examined(config: Config | None, deep: bool = False) -> dict[str, list[tuple[str, str]]]:
    done = examine(config, deep, begin=lambda topic: None, end=lambda topic, findings: None)
    return {topic: [(finding.level, finding.what) for finding in found] for topic, found in done.findings.items()}


def test_a_machine_is_examined_without_a_launch_file() -> None:
    found = examined(None)
    assert list(found) == ["versions", "nodes"]
    assert {level for findings in found.values() for level, _ in findings} == {"ok"}, found


@pytest.mark.soak
def test_a_run_is_examined_down_to_one_step_and_leaves_nothing(system_config: Config, tmp_path: Path) -> None:
    config = replace(system_config, run=replace(system_config.run, dir=str(tmp_path / "run")))
    found = examined(config, deep=True)
    assert list(found) == ["versions", "nodes", "cluster", "settings and data", "model", "storage", "one step"]
    assert "error" not in {level for findings in found.values() for level, _ in findings}, found
    assert found["one step"][0][1].startswith("one step of 2 responses a question: ")
    assert list(tmp_path.iterdir()) == []


def test_every_topic_is_checked_whatever_is_wrong(system_config: Config, tmp_path: Path) -> None:
    data = replace(system_config.data, train=replace(system_config.data.train, path=str(tmp_path / "none.json")))
    rollout = replace(system_config.rollout, num_workers=100, weight_transfer_port=1)
    model = replace(system_config.model, path=str(tmp_path / "no_model"))
    found = examined(replace(system_config, data=data, rollout=rollout, model=model))
    errors = {
        topic: " ".join(what for level, what in findings if level == "error") for topic, findings in found.items()
    }
    assert "does not see" in errors["nodes"]
    assert "this run needs" in errors["cluster"]
    assert "no_model does not exist" in errors["settings and data"]
    assert "cannot be used" in errors["model"]


def test_missing_data_is_among_the_findings(system_config: Config, tmp_path: Path) -> None:
    data = replace(system_config.data, train=replace(system_config.data.train, path=str(tmp_path / "none.json")))
    found = examined(replace(system_config, data=data))
    assert "none.json" in str([what for level, what in found["settings and data"] if level == "error"])
