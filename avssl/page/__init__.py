"""What web pages share: a server of this machine, its limits, and reading of uploads."""
