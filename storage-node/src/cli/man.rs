//! Manual pages, made from the command line's own description: one for `holdfast` and one for each command.

use super::failure::Failure;
use super::out::Out;
use std::path::Path;

/// Writes a page for each command to a directory; without one, prints the first page.
pub fn run(command: clap::Command, dir: Option<&Path>, out: &mut Out) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(command).render(&mut page);
        made.map_err(|e| Failure::failed(format_args!("manual page: {e}")))?;
        return out.print(String::from_utf8_lossy(&page));
    };
    let failed = |e: std::io::Error| Failure::failed(format_args!("{}: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)?;
    if out.format.is_text() {
        out.line(format_args!("manual pages are in {}", dir.display()))?;
    }
    Ok(())
}
