//! Program to object, header, assembly or code in process.
