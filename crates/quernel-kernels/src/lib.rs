//! Catalogue of kernels: contract, tile, packing, cost.
