//! Judges of what happened.

pub mod register;
