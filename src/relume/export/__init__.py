"""A trained net in the form that other programs take: ONNX."""
