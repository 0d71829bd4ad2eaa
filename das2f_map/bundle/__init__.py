"""The model on disk: card, weights, ONNX file, the bundled models, and how a card fits a scene."""
