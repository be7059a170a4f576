"""`ssr1-rl data check` decodes with Ray Data, in other processes."""

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssr1_rl import cli
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.check import on_ray
from ssr1_rl.types import AudioRef, VideoRef
from tests.unit.data import distributed
from tests.unit.data.distributed import film, put, wav


def test_the_command_finds_what_is_wrong(ray_cluster: None, tmp_path: Path) -> None:
    questions, clips = distributed.avqa(tmp_path)
    (clips / "_y_1_3.wav").write_bytes(b"RIFF and no more")
    spec = tmp_path / "launch.yaml"
    spec.write_text(f"data:\n  train: {{format: avqa, path: {questions}, audio_dir: {clips}}}\n")
    result = CliRunner().invoke(cli.app, ["data", "check", str(spec), "-n", "1"])
    assert result.exit_code == 1
    # The rows of the file that cannot be used, and the clip that cannot be decoded.
    assert "clips and videos  3/3 (1 failed)" in result.output
    assert "data.train: broken clip: 1\n" in result.output and "_y_1_3.wav" in result.output
    assert "data.train: path outside: 2\n" in result.output and "… and 1 more" in result.output
    result = CliRunner().invoke(cli.app, ["data", "check", str(spec), "--json", "data.max_audio_s=0.6"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["splits"][0]["counts"]["clip cut"] == 1
    assert report["splits"][0]["num_clips"] == 3


def test_files_come_back_in_their_order_whoever_decodes_them(ray_cluster: None, tmp_path: Path) -> None:
    put(tmp_path, **{f"{i}.wav": wav(0.1 + i / 10, seed=i) for i in range(5)}, film__mp4=film())
    files = [AudioRef(str(tmp_path / f"{i}.wav")) for i in range(5)] + [AudioRef("gone.wav")]
    done: list[object] = []
    measured = on_ray.measure_on_ray([*files, VideoRef(str(tmp_path / "film.mp4"))], DataConfig(), done.extend)
    assert [round(one.seconds, 2) for one in measured[:5]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert measured[5].kind == "broken clip" and measured[6].kind == ""
    assert len(done) == 7


def test_a_file_that_kills_its_decoder_spoils_no_other_task(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, a__wav=wav(), killer__wav=wav())
    monkeypatch.setattr(on_ray, "_measure_batch", partial(_die_at, on_ray._measure_batch))
    files = [AudioRef(str(tmp_path / name)) for name in ("killer.wav", "a.wav")]
    killer, other = on_ray.measure_on_ray(files, DataConfig(), lambda done: None)
    assert (killer.kind, other.kind) == ("broken clip", "")
    assert "killer.wav: not decoded, because the task failed each time; this file crashes a decoder" in killer.reason


def _die_at(measure, batch, data):  # type: ignore[no-untyped-def]
    import os

    if "killer" in batch["path"][0].as_py():
        os._exit(1)
    return measure(batch, data)
