"""Readers of images: with classes, masks or boxes, from folders, annotation files, shards or scikit-learn's digits."""
