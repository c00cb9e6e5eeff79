"""Operations of detectors without branches on what an image holds, which torch.export cannot trace."""
