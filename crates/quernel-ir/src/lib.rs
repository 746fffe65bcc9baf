//! The two intermediate representations of Quernel and everything that defines them.
//!
//! * [`Graph`]: typed operators over tensors with ONNX's logical layouts; float or quantized by type.
//! * [`Program`]: steps over byte-exact slots of one arena, channels last, weights packed.
//! * [`exact`]: the arithmetic both share with the interpreter and the code generator.
//!
//! A graph travels through named [`Stage`]s; [`verify()`] lists every fault of a graph at a stage, and only a
//! [`Verified`] graph can be lowered. The text form ([`text`]) prints and parses.
//!
//! **What is absent:** no I/O, no ONNX, no target, no hash-ordered iteration.

pub mod arena;
pub mod codes;
pub mod diag;
pub mod exact;
pub mod float;
pub mod fold;
pub mod graph;
pub mod index;
pub mod infer;
pub mod op;
pub mod plain;
pub mod program;
pub mod stage;
pub mod tensor;
pub mod text;
pub mod ty;
pub mod verify;

pub use arena::{Arena, Id};
pub use diag::{Class, Code, Diagnostic, Location};
pub use graph::{Const, Def, Graph, Node, NodeData, Origin, Value, ValueData};
pub use index::Index;
pub use op::{Act, Binary, Comparison, Multiplier, Op, PoolKind, ReduceKind, Unary, Window, WindowDim};
pub use program::Program;
pub use stage::Stage;
pub use tensor::Tensor;
pub use ty::{Elem, Quant, Scalar, Scheme, Storage, TensorTy};
pub use verify::{Verified, verify};
