//! All integration tests of the control layer, in one binary.
