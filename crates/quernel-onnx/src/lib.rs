//! ONNX protobuf to Quernel IR.
