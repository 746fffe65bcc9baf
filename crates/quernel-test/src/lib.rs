//! Snapshot-tests passes from text IR, one call each.
