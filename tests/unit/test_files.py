"""Files are replaced whole, folders appear whole, and what is set aside never replaces anything."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ssr1_rl.errors import UserError
from ssr1_rl.files import SetAside, replacing, set_aside_folders, step_of, whole_folder, write_json, write_text


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_000040", 40),
        ("step_1000000", 1_000_000),
        ("step_000040_good", None),
        ("step_40", None),
        ("step_000040.parquet", None),
        ("xstep_000040", None),
        ("step_٠٠٠٠٤٠", None),
        ("step_000040\n", None),
        ("step_-00040", None),
    ],
)
def test_only_exact_names_are_steps(name, step):
    assert step_of(Path(name)) == step


def test_an_ending_is_part_of_the_name():
    assert step_of(Path("step_000007.parquet"), ".parquet") == 7
    assert step_of(Path("step_000007xparquet"), ".parquet") is None


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.json") as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_write_left_does_not_hinder_the_next(tmp_path):
    (tmp_path / ".a.json.tmp").write_text("half, and longer than the next content")
    write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_configuration_appears_last(tmp_path, monkeypatch):
    moved, real = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: moved.append(path.name) or real(path, target))
    with whole_folder(tmp_path / "out") as folder:
        for name in ("config.json", "a.safetensors", "tokenizer.json"):
            (folder / name).write_text(name)
    assert moved == ["a.safetensors", "tokenizer.json", "config.json"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(moved)


def test_two_exports_into_one_folder_are_refused(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        (folder / "mine").write_text("1")
        with pytest.raises(UserError, match="another process is writing into"), whole_folder(tmp_path / "out"):
            pass
        assert (folder / "mine").exists()


def test_an_empty_folder_that_was_there_stays_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path):
        raise ZeroDivisionError
    assert tmp_path.is_dir()
    assert os.listdir(tmp_path) == []


def test_what_somebody_put_beside_an_export_does_not_hide_its_error(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "new"):
        (tmp_path / "new" / "mine").write_text("1")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "new") == ["mine"]


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with whole_folder(tmp_path / "out") as folder:
        (folder / "mine").write_text("1")
    assert (tmp_path / "out" / "mine").exists()


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_each_start_sets_aside_in_a_folder_of_its_own(tmp_path):
    (tmp_path / "set_aside" / "mine").mkdir(parents=True)
    (tmp_path / "set_aside" / "999_notes").mkdir()
    for step in (40, 40):
        (tmp_path / "metrics.jsonl").write_text(str(step))
        aside = SetAside(tmp_path, step)
        assert aside.folder is None, "made only when something is moved"
        aside.move(tmp_path / "metrics.jsonl")
    names = ["001_at_step_000040", "002_at_step_000040"]
    assert [path.name for path in set_aside_folders(tmp_path)] == names
    assert all((tmp_path / "set_aside" / name / "metrics.jsonl").read_text() == "40" for name in names)
