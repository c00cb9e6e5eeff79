"""Text as data: documents, their tokens on disk, and blocks, chunks or pairs of tokens as examples."""
