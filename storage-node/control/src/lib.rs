//! The control layer: everything that operators and programs can see and change, typed and in one place. REST, the
//! command line, the page and later doors translate to it and back, and decide nothing themselves.
//!
//! It is pure: no clock, socket or thread. Verbs ask their node through [`ports::Ports`]; views and health are
//! functions of the record and of what the leader hears.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`model`] | resources, inputs and answers, as the API says them |
//! | [`error`] | errors: code, fate, what, why, next |
//! | [`access`] | who may do what |
//! | [`ports`] | what verbs need of their node |
//! | [`read`] | every read as a value |
//! | [`verbs`] | every change that can be asked for |
//! | [`view`] | resources as functions of the record and of what the leader hears |
//! | [`health`] | what is wrong, in codes: table, checks, what is raised |
//! | [`watch`] | which resources may look different than before, for clients that follow |

#![allow(clippy::result_large_err, reason = "a Problem is made once for each request that is refused")]

pub mod access;
pub mod error;
pub mod health;
pub mod model;
pub mod ports;
pub mod read;
pub mod verbs;
pub mod view;
pub mod watch;
