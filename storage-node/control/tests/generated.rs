//! What is generated from the table of health codes and kept in the tree.

use hf_control::health::generated;

/// The generated files are those of the table.
#[test]
fn the_reference_and_the_alert_rules_are_the_generated_ones() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (file, want) in
        [("docs/health.md", generated::reference()), ("deploy/prometheus/rules.yaml", generated::rules())]
    {
        let path = root.join(file);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &want).unwrap();
        }
        let is = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(is, want, "{file}: run UPDATE=1 cargo test -p hf-control --test all generated");
    }
}
