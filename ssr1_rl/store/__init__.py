"""What a run is resumed or exported from: its folder, checkpoints and exported models. Metrics are in telemetry/."""
