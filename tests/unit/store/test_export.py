"""An exported folder is the base model's with other weights: transformers loads all of it, in its dtype."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.store import export
from ssr1_rl.store.checkpoints import CheckpointStore
from ssr1_rl.store.export import base_model_folder, choose_checkpoint, export_checkpoint, write_model_folder
from ssr1_rl.store.manifest import DamagedCheckpoint
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.weights.parameters import named_weights


@pytest.fixture(scope="module")
def trained(random_audio_model):
    """Weights by checkpoint name that are not the base model's."""
    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    torch.manual_seed(1)
    return {name: torch.randn_like(p) / 8 for name, p in named_weights(model).items()}


def weights_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("shard_bytes", [2**40, 100_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_that_transformers_loads(random_audio_model, trained, tmp_path, monkeypatch, shard_bytes, dtype):
    monkeypatch.setattr(export, "SHARD_BYTES", shard_bytes)
    output = tmp_path / "out"
    write_model_folder(str(random_audio_model), trained.items(), output, dtype)
    files = {path.name for path in output.iterdir()}
    base = {path.name for path in random_audio_model.iterdir()} - {"model.safetensors"}
    assert base <= files
    if shard_bytes > 2**30:
        assert files - base == {"model.safetensors"}
    else:
        index = json.loads((output / "model.safetensors.index.json").read_text())
        shards = {name for name in files if name.endswith(".safetensors")}
        assert set(index["weight_map"].values()) == shards
        assert {name.split("-of-")[1] for name in shards} == {f"{len(shards):05d}.safetensors"}
        assert index["metadata"]["total_size"] == sum(t.numel() * dtype.itemsize for t in trained.values())
        for name, file in index["weight_map"].items():
            assert name in load_file(output / file)
        assert files - base == shards | {"model.safetensors.index.json"}
    found = weights_of(output)
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name].to(dtype)) for name in trained)
    config = json.loads((output / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")

    model = load_model(str(output), dtype, "sdpa")
    assert all(torch.equal(p, trained[name].to(dtype)) for name, p in named_weights(model).items())


def test_qwen2_5_omni_leaves_as_the_thinker_of_a_whole_model(random_omni_model, tmp_path):
    model = load_model(str(random_omni_model), torch.float32, "sdpa")
    trained = {name: (parameter + 1).bfloat16() for name, parameter in named_weights(model).items()}
    write_model_folder(str(random_omni_model), trained.items(), tmp_path / "out", torch.bfloat16)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni", "vLLM finds the thinker in the whole model's configuration"
    assert config["dtype"] == "bfloat16"
    assert config["thinker_config"].get("dtype", "bfloat16") == "bfloat16"
    model = load_model(str(tmp_path / "out"), torch.bfloat16, "sdpa")
    assert all(torch.equal(parameter, trained[name]) for name, parameter in named_weights(model).items())


def test_a_folder_with_something_in_it_is_refused(random_audio_model, trained, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; remove it or write to another folder"):
        write_model_folder(str(random_audio_model), trained.items(), tmp_path, torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_an_export_that_fails_leaves_no_folder_and_one_that_is_killed_no_configuration(
    random_audio_model, trained, tmp_path
):
    def half():
        yield next(iter(trained.items()))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_model_folder(str(random_audio_model), half(), tmp_path / "out", torch.float32)
    assert not (tmp_path / "out").exists()

    def killed():
        yield next(iter(trained.items()))
        seen.extend(path.name for path in (tmp_path / "out").iterdir())

    seen = []
    write_model_folder(str(random_audio_model), killed(), tmp_path / "out", torch.float32)
    assert seen == [".partial"], "until all is written, a loader finds nothing"


def test_what_a_killed_export_left_is_cleared_by_the_next(random_audio_model, trained, tmp_path):
    (tmp_path / "out" / ".partial").mkdir(parents=True)
    (tmp_path / "out" / ".partial" / "model.safetensors").write_text("half")
    write_model_folder(str(random_audio_model), trained.items(), tmp_path / "out", torch.float32)
    assert weights_of(tmp_path / "out").keys() == trained.keys()
    assert not (tmp_path / "out" / ".partial").exists()


def test_a_file_in_place_of_the_folder_is_refused(random_audio_model, trained, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="out is a file; give a new or empty folder"):
        write_model_folder(str(random_audio_model), trained.items(), tmp_path / "out", torch.float32)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.fixture
async def store(tmp_path, trained):
    """Checkpoints of steps 10 to 30; the second is best."""

    async def write(folder):
        save_file(trained, folder / "weights-00000.safetensors")
        (folder / "learner.json").write_text('{"lora": null}')

    store = CheckpointStore(tmp_path, CheckpointConfig(keep_last=5))
    for step, score in ((10, 0.1), (20, 0.8), (30, None)):
        await store.save(step, {}, score, write)
    return store


@pytest.mark.parametrize(("which", "step"), [("last", 30), ("best", 20), ("10", 10), ("20", 20)])
async def test_a_checkpoint_is_chosen_by_name_or_step(store, tmp_path, which, step):
    assert choose_checkpoint(tmp_path, which).step == step


async def test_a_step_that_is_not_there_lists_those_that_are(store, tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint of step 25; choose one of: last, best, 10, 20, 30"):
        choose_checkpoint(tmp_path, "25")
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        choose_checkpoint(tmp_path / "other", "last")


async def test_without_validation_best_is_last(tmp_path):
    async def write(folder):
        (folder / "w").write_text("w")

    store = CheckpointStore(tmp_path, CheckpointConfig())
    for step in (1, 2):
        await store.save(step, {}, None, write)
    assert choose_checkpoint(tmp_path, "best").step == 2


async def test_a_checkpoint_is_verified_before_it_is_exported(store, random_audio_model, trained, tmp_path):
    checkpoint = store.all()[-1]
    export_checkpoint(checkpoint, str(random_audio_model), tmp_path / "out", "float32")
    assert weights_of(tmp_path / "out").keys() == trained.keys()
    (checkpoint.learner / "weights-00000.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint):
        export_checkpoint(checkpoint, str(random_audio_model), tmp_path / "out2", "float32")
    assert not (tmp_path / "out2").exists()


async def test_another_dtype_is_refused_before_checksums_are_read(store, random_audio_model, tmp_path, monkeypatch):
    checkpoint = store.all()[-1]
    monkeypatch.setattr(type(checkpoint), "verify", lambda self: pytest.fail("read the whole checkpoint first"))
    with pytest.raises(ValueError, match=r"--dtype must be bfloat16 or float32, got 'float16'"):
        export_checkpoint(checkpoint, str(random_audio_model), tmp_path / "out", "float16")


def test_a_relative_base_model_is_found_from_any_directory(tmp_path, monkeypatch):
    start, elsewhere = tmp_path / "start", tmp_path / "elsewhere"
    for folder in (start / "models" / "sft", start / "runs" / "x", elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert base_model_folder(start / "runs" / "x", "models/sft", "runs/x") == str(start / "models" / "sft")
    assert base_model_folder(start / "runs" / "x", "./models/sft", "runs/x") == str(start / "models" / "sft")
    aside = start / "runs" / "x" / "set_aside" / "001_at_step_000000"
    assert base_model_folder(aside, "models/sft", "runs/x") == str(start / "models" / "sft")
    (start / "runs" / "x").rename(elsewhere / "x")
    with pytest.raises(
        ValueError, match=r"model\.path \./models/sft does not exist.*base model of .*/x.*run the export from"
    ):
        base_model_folder(elsewhere / "x", "./models/sft", "runs/x")
    monkeypatch.chdir(start)
    assert base_model_folder(elsewhere / "x", "./models/sft", "runs/x") == "models/sft"
    hub_name = "Qwen/Qwen2-Audio-7B-Instruct"
    assert base_model_folder(elsewhere / "x", hub_name, "runs/x") == hub_name
