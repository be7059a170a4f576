"""What a run leaves on disk to resume or export: its folder, checkpoints, exported models. Metrics are in telemetry/."""
