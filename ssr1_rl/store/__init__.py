"""What a run resumes or exports: its folder, its checkpoints, exported models. Metrics are in telemetry/."""
