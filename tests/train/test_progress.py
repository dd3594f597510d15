"""Lines of progress."""

from avssl.train.progress import Job, Reporter


def test_small_losses_keep_their_digits() -> None:
    """DMAE's alignment of 1024 channels starts at 0.035 (arXiv 2208.12256, 3.2) and only falls."""
    metrics = {"loss": 0.5037261, "loss/pixels": 0.5023, "loss/alignment": 0.0014261, "lr": 1e-3}
    line = Reporter(Job("student", 0, 10, 4.0, 10), quiet=True).line(5, metrics, 0.5, 0.1)
    assert "loss 0.5037 (pixels 0.5023 alignment 0.001426)" in line
    assert "student step 5/10 50%" in line and "ETA 0:02" in line
