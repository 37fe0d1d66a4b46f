"""Files of other programs: the authors' checkpoints in; timm, Hugging Face and ONNX out in a later issue."""
