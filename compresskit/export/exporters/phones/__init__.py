"""Files for runtimes of phones: ExecuTorch and LiteRT."""
