//! Checkers: whether what users saw could have happened.

pub mod register;
