"""What an ONNX file holds and says: names, metadata, constants in few bytes."""
