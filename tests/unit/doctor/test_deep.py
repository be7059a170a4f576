"""The settings of the doctor's one step."""

from ssr1_rl.config.schema import Config
from ssr1_rl.doctor.deep import tiny_step


def test_the_doctor_s_step_is_sent_to_no_tracker(tmp_path):
    config = Config()
    config.telemetry.trackers = ["wandb", "mlflow"]
    step = tiny_step(config, tmp_path)
    assert (step.telemetry.trackers, step.telemetry.tensorboard) == ([], False)
    assert config.telemetry.trackers == ["wandb", "mlflow"]
