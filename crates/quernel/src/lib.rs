//! Ahead-of-time compiler from ONNX to quantized native code.
