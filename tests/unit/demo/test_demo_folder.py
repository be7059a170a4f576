"""`ssr1-rl demo` and `soundworld` remove only what they made themselves."""

import json
from pathlib import Path

import pytest

from ssr1_rl.demo import run as demo
from ssr1_rl.errors import UserError
from ssr1_rl.store.folder import RunFolderInUse, claim


@pytest.fixture
def made(monkeypatch):
    """Replaces the demo's work by writing what it leaves; the folders in which it ran."""
    ran = []

    def world(output, seed):
        (output / "world").mkdir(exist_ok=True)
        (output / "world" / "train.json").write_text(str(seed))

    def grpo(config, claimed):
        folder = Path(config.run.dir)
        with pytest.raises(RunFolderInUse), claim(folder):
            pass
        (folder / "checkpoints" / "step_000001").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(f"run: {{name: {config.run.name}}}")
        ran.append(folder)
        return {}

    monkeypatch.setattr(demo, "make_soundworld", world)
    monkeypatch.setattr(demo, "run_grpo", grpo)
    monkeypatch.setattr(demo, "_report", lambda *_: None)
    return ran


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in Path(folder).rglob("*")}


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "mine"},
        {"world/train.json": "mine", "checkpoints/step_000001/weights": "mine"},
        {"demo.json": '{"app": "gradio"}', "samples/a.wav": "mine"},
        {"demo.json": "not JSON", "world/x": "mine"},
        {".lock": "", ".bashrc": "mine"},
    ],
)
def test_a_folder_that_no_demo_made_is_refused_and_left_as_it_is(made, tmp_path, files, fresh):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"was not made by this demo.*--output"):
        demo.run_demo(tmp_path, 0, fresh, [])
    assert content(tmp_path) == before
    assert made == []


def test_a_file_in_place_of_the_folder_is_refused(made, tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        demo.run_demo(tmp_path / "demo", 0, True, [])
    assert (tmp_path / "demo").read_text() == "mine"


def test_a_later_demo_removes_what_the_earlier_one_made_and_nothing_else(made, tmp_path):
    output, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    demo.run_demo(output, 0, True, [])
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (output / "samples").symlink_to(elsewhere)
    (output / "export").mkdir()
    (output / "export" / "model.safetensors").write_text("mine")
    (output / "notes.txt").write_text("mine")
    (output / "checkpoints" / "step_000072").mkdir()
    (output / "wandb" / "offline-run-1").mkdir(parents=True)
    (output / "trackers.json").write_text("{}")
    demo.run_demo(output, 1, True, [])
    assert not (output / "wandb").exists() and not (output / "trackers.json").exists()
    assert not (output / "checkpoints" / "step_000072").exists()
    assert (output / "world" / "train.json").read_text() == "1"
    assert (output / "notes.txt").read_text() == (output / "export" / "model.safetensors").read_text() == "mine"
    assert (elsewhere / "mine.txt").read_text() == "mine"
    assert made == [output, output]


def test_without_fresh_nothing_is_removed(made, tmp_path):
    demo.run_demo(tmp_path / "demo", 0, True, [])
    (tmp_path / "demo" / "checkpoints" / "step_000072").mkdir()
    demo.run_demo(tmp_path / "demo", 0, False, [])
    assert (tmp_path / "demo" / "checkpoints" / "step_000072").is_dir()


@pytest.mark.parametrize("settings", ["run: {name: local}", "run: {name: 'demo", "[]", "\x00"])
def test_another_run_in_a_demo_s_folder_is_not_removed(made, tmp_path, settings):
    demo.run_demo(tmp_path / "demo", 0, True, [])
    (tmp_path / "demo" / "config.yaml").write_text(settings)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"not (the|a) demo's"):
        demo.run_demo(tmp_path / "demo", 0, True, [])
    assert content(tmp_path) == before


def test_a_demo_under_another_name_may_be_repeated(made, tmp_path):
    for _ in range(2):
        demo.run_demo(tmp_path / "demo", 0, True, ["run.name=mine"])
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["run.name"] == "mine"


def test_a_running_demo_is_not_removed(made, tmp_path):
    demo.run_demo(tmp_path / "demo", 0, True, [])
    before = content(tmp_path)
    with claim(tmp_path / "demo"), pytest.raises(RunFolderInUse):
        demo.run_demo(tmp_path / "demo", 0, True, [])
    assert content(tmp_path) == before


def test_a_folder_named_sft_that_holds_no_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "make_world", lambda folder, settings: None)
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"sft is not empty and holds no model"):
        demo.make_soundworld(tmp_path, 0)
    assert content(tmp_path) == {"sft": b"", "sft/mine.txt": b"mine"}
