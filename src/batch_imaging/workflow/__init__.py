"""What runs a batch_imaging job from beginning to end: engine, pipelines, report, clean-up."""
