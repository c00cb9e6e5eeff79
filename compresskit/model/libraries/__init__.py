"""torchvision, timm and transformers: what their names build, and the inputs that their models take."""
