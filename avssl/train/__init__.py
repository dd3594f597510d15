"""Training: experiments, the step, stages, checkpoints, run folders."""
