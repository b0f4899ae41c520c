//! What this node exports, and room for those who come to use it.

mod room;
mod table;

pub use room::{Door, Doors, NEGOTIATING, Seats};
pub use table::{Entry, ExportTable};
