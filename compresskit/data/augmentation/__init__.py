"""Random changes of training images, and of the boxes, masks and maps that lie on them."""
