"""Fine-tuning a pretrained encoder on labelled tasks: one loop, one set of readers, a small file for each task."""
