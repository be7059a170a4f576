"""`ray job submit launch/local.yaml` on a real cluster with token authentication."""

from pathlib import Path

from tests.e2e.conftest import Job, submit


def test_ray_job_submit_runs_a_launch_file(job: Job) -> None:
    assert job.returncode == 0, job.output
    assert "step 2/2" in job.output
    assert (job.folder / "summary.json").exists()
    assert (job.folder / "checkpoints/step_000001/manifest.json").exists()


def test_without_gpus_the_gpu_recipe_fails_at_once_and_names_the_local_one(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    model = Path(cluster["SSR1_RL_SOUNDWORLD"])
    data = [f"data.{s}.path={model}/world/test.json" for s in ("train", "validation.avqa")]
    data += [f"data.{s}.audio_dir={model}/world/audio" for s in ("train", "validation.avqa")]
    done = submit(cluster, "launch/grpo.yaml", f"run.dir={tmp_path}/run", *data)
    assert done.returncode != 0
    assert "no GPU at all" in done.stdout
    assert "launch/local.yaml" in done.stdout
