//! Graph to program: fusion groups, layout, packing, overflow proofs, arena plan.
