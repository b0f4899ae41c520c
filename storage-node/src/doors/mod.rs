//! The daemon's public doors. Each translates to the control layer and back, and decides nothing itself.

pub mod metrics;
pub mod rest;
pub mod web;
